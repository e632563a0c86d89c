// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>

namespace lockstep::native {

/// A stream of its own on which a piece of a program runs, first as it is and later as a graph, so
/// that tests can put themselves in the place of the GPU.
///
/// Thread-safety: one thread at a time. Owns: the graph, and the memory that its kernels use.
/// Throws: `c10::Error`, `std::runtime_error` when the device says no.
class GraphStream {
 public:
  virtual ~GraphStream() = default;

  /// Makes this stream the current one, behind what the current stream has been given so far.
  virtual void enter() = 0;
  /// Makes the stream current again that was so before `enter`, and has it wait for this one.
  virtual void leave() = 0;

  /// Calls `body`, whose work on the current stream, and on streams that are ordered by it, becomes
  /// the graph instead of running. `body` lives as long as the graph. Between `enter` and `leave`.
  /// Throws: also what `body` throws; there is no graph then.
  virtual void capture(const std::function<void()>& body) = 0;
  [[nodiscard]] virtual bool has_graph() const = 0;
  /// Runs the graph. Between `enter` and `leave`.
  virtual void replay() = 0;
  /// The graph and its memory are no longer needed. It may still run, and there may be none.
  virtual void drop_graph() = 0;
};

/// On a CUDA device. A build without CUDA throws.
/// Throws: `c10::Error`.
[[nodiscard]] std::unique_ptr<GraphStream> make_graph_stream(int device);

}  // namespace lockstep::native
