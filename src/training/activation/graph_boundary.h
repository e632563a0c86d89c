// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/function.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace lockstep {

/// A moment of the calling thread, to tell the part of the autograd graph that it made since then
/// from what was there before.
class GraphMoment {
 public:
  GraphMoment();

  /// Whether this thread made `node` later. Never so for the end of a parameter's graph.
  [[nodiscard]] bool is_before(const torch::autograd::Node& node) const;

 private:
  std::uint64_t thread_;
  std::uint64_t sequence_;
};

/// Where the part of a graph that is newer than a moment ends: edges that lead to older nodes, to
/// parameters and other leaves.
class GraphBoundary {
 public:
  /// `outputs`: tensors whose last node is newer than `begin`, or that need no gradient.
  GraphBoundary(const std::vector<at::Tensor>& outputs, const GraphMoment& begin);

  /// Each once, in the order in which a walk from the outputs meets them.
  [[nodiscard]] const std::vector<torch::autograd::Edge>& edges() const noexcept { return edges_; }

 private:
  friend class Redirection;

  struct Crossing {
    torch::autograd::Node* node;
    std::size_t index;  // of the edge among the node's
    std::size_t edge;   // among `edges_`
  };
  std::vector<Crossing> crossings_;
  std::vector<torch::autograd::Edge> edges_;
};

/// While it lives, the part of a graph within `boundary` ends in leaves of its own, one for each of
/// `edges`. So its gradients can be computed without touching the nodes beyond, and without their
/// hooks. Keep the outputs of that part alive meanwhile.
///
/// Throws: `c10::Error` where the boundary has an edge that is not among `edges`.
class Redirection {
 public:
  Redirection(const GraphBoundary& boundary, const std::vector<torch::autograd::Edge>& edges);
  ~Redirection();
  Redirection(const Redirection&) = delete;
  Redirection& operator=(const Redirection&) = delete;

  /// The leaves, in the order of `edges`.
  [[nodiscard]] const std::vector<torch::autograd::Edge>& ends() const noexcept { return ends_; }

 private:
  const GraphBoundary& boundary_;
  std::vector<torch::autograd::Edge> ends_;
};

}  // namespace lockstep
