// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/group/comm_backend.h"
#include "comm/group/group_context.h"

namespace lockstep::native {
class GraphStream;  // native/cuda/graph_stream.h
}

namespace lockstep {

class Work;

/// The state and the backend of a `ProcessGroup`. `ProcessGroup` checks the
/// arguments of a call, and this class starts it: on the group for its device, staged where the
/// backend does not support that device, with the options of the scope around the call.
///
/// Lives as long as its `ProcessGroup` or a `Work` of it does.
/// Thread-safety: as `ProcessGroup`.
class GroupCore final : public GroupContext, public std::enable_shared_from_this<GroupCore> {
 public:
  using MakeBackend = std::function<std::unique_ptr<CommBackend>(GroupContext&)>;
  /// Collective. Blocks: the calling thread. Throws: what `make_backend` throws.
  [[nodiscard]] static std::shared_ptr<GroupCore> make(Backend kind, LaunchEnvironment environment,
                                                       Timeout timeout,
                                                       const MakeBackend& make_backend);
  /// For `make`.
  GroupCore(Backend kind, LaunchEnvironment environment, Timeout timeout);

  [[nodiscard]] CommBackend& backend() noexcept { return *backend_; }
  /// The group whose backend handles tensors of this kind: this one, unless it has another for
  /// them.
  [[nodiscard]] GroupCore& group_for(c10::DeviceType device);

  /// Every call begins with this. Throws: `c10::Error` where another thread is in the group, and in
  /// a fork.
  using GroupContext::enter;
  /// The same for calls that need an open group. Throws: also the group's failure; `c10::Error` for
  /// a closed group.
  [[nodiscard]] GroupVisit begin(const char* op) const;

  // --- calls, between `begin` and the end of that visit; arguments are checked ---

  /// A call under way: the group whose queue it is in, and its number there.
  struct PendingCall {
    std::shared_ptr<GroupCore> group;
    std::uint64_t sequence = 0;
  };
  /// `whole`: the tensor whose pieces are the outputs, where they are no tensors of the program's.
  PendingCall start(Collective call, const at::Tensor& whole = {});
  PendingCall send(const at::Tensor& tensor, int to, int tag);
  PendingCall receive(const at::Tensor& tensor, int from, int tag);
  /// Messages under the library's own tag, which no message of a program has. For backends that are
  /// built on this group.
  PendingCall send_own(const at::Tensor& tensor, int to);
  PendingCall receive_own(const at::Tensor& tensor, int from);

  /// Where the calls of `coalesced` are entered while it runs; null: it does not run.
  [[nodiscard]] std::vector<Work>* coalesced() const noexcept { return coalesced_; }
  void begin_coalescing(std::vector<Work>& parts);
  void end_coalescing();

  // --- whole calls ---

  CallScope with(CallOptions options);
  /// `is_symmetric`: see `CommBackend::allocate_symmetric`.
  [[nodiscard]] at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options,
                                    bool is_symmetric = false);
  /// See `CommBackend::prefers_sum`.
  [[nodiscard]] bool prefers_sum(const at::Tensor& tensor);
  /// Whether calls on tensors of this kind can be captured in a graph of the device. See
  /// `CommBackend::can_be_captured`.
  [[nodiscard]] bool can_be_captured(c10::DeviceType device);
  /// See `CommBackend::check_graph`.
  void check_graph(c10::DeviceType device, const char* op);
  /// See `CommBackend::watch_graph`.
  void watch_graph(c10::DeviceType device, const char* op);
  /// A graph of calls of this group: `close` drops it, since a communicator ends only when its
  /// graphs are gone.
  void add_graph(std::weak_ptr<native::GraphStream> graph);
  /// See `CommBackend::end_capture`. Does nothing in a group that has failed.
  std::string end_capture() noexcept;
  void close();
  void try_progress() noexcept;
  [[nodiscard]] int next_number() noexcept { return ++numbers_; }

  // --- what a `Work` asks about its call ---

  using GroupContext::wait_for;
  [[nodiscard]] bool is_completed(std::uint64_t sequence);
  [[nodiscard]] std::exception_ptr exception_of(std::uint64_t sequence);

 private:
  /// As `group_for`, for a call that is made: a capture under way hears of the group.
  [[nodiscard]] GroupCore& group_for_call(c10::DeviceType device);
  PendingCall start_send(const at::Tensor& tensor, int to, int tag, Timeout timeout);
  PendingCall start_receive(const at::Tensor& tensor, int from, int tag, Timeout timeout);
  /// An operation on tensors of a device that the backend does not support. It starts after what
  /// the current stream has been given, and is staged unless the backend `moves_data_on` that
  /// device. `make`: the same call on the staged tensors.
  std::unique_ptr<Operation> stream_ordered(
      Collective call, std::function<std::unique_ptr<Operation>(Collective)> make);
  std::unique_ptr<Operation> operation_for(Collective call);
  std::unique_ptr<Operation> operation_for_send(const at::Tensor& tensor, int to, int tag);
  std::unique_ptr<Operation> operation_for_receive(const at::Tensor& tensor, int from, int tag);

  void drop_graphs();

  std::vector<Work>* coalesced_ = nullptr;
  std::vector<std::weak_ptr<native::GraphStream>> graphs_;
  int numbers_ = 0;
  std::unique_ptr<CommBackend> backend_;  // goes before the operations under way
};

}  // namespace lockstep
