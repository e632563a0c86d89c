// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

struct Collective;   // one call, checked (comm/collective/collective.h)
class GroupContext;  // what a backend may ask of its group (comm/group/group_context.h)
class GroupCore;     // a group behind `ProcessGroup` (comm/group/group_core.h)
class Operation;     // one call on one backend (comm/collective/operation.h)

/// How one group communicates on one rank: the interface that a new backend implements.
/// Programs call `ProcessGroup`. Before a backend sees a call, its arguments have been checked,
/// autograd has heard of what it writes, and no other thread is in the group. A backend makes
/// operations; the group's queue makes their progress.
///
/// Ordering: what is marked "Collective" is called in the same order on all ranks, and
/// `make_operation` in the order of the program's collectives. `make_send` and `make_receive` may
/// come between them elsewhere on each rank.
/// Blocks: nothing, where a function does not say so. Such a function waits until
/// `GroupContext::call_timeout` has passed at the latest, and names who is missing. `abort`,
/// `forget_names` and the destructor never wait for another rank.
/// Thread-safety: called by one thread at a time, the one that is in the group. Any thread may call
/// the function that `peer_watch` returns. A backend has no thread that calls into the group.
/// Owns: what carries the bytes. The group owns the backend, and the `GroupContext` that the
/// backend was made with outlives it. Operations outlive it too: those that have not ended when the
/// group goes are destroyed after the backend, unless it calls `GroupContext::keep_unfinished`. The
/// memory of `allocate` belongs to the tensors in it and may outlive the group.
/// Throws: `make_*` throws `c10::Error` for a call that this backend does not have, before anything
/// is sent; what goes wrong later is thrown by the operation, as `OperationFailure`. All others
/// throw `CommError` with `GroupContext::context_for`.
/// Forks: a child's copy of the group destroys its copy of the backend. Where
/// `GroupContext::is_copy_of_fork`, the destructor touches nothing that is shared.
///
/// Source: c10d::Backend beside c10d::ProcessGroup, torchcomms' TorchCommBackend beside TorchComm.
class CommBackend {
 public:
  virtual ~CommBackend() = default;
  CommBackend(const CommBackend&) = delete;
  CommBackend& operator=(const CommBackend&) = delete;

  /// Called once, before any other function: from here on the group can run operations. For
  /// backends that need collectives of their own to find out more.
  ///
  /// Collective. Blocks: the calling thread.
  virtual void start() {}

  // --- calls ---

  virtual std::unique_ptr<Operation> make_operation(Collective call) = 0;
  virtual std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) = 0;
  virtual std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) = 0;
  /// Around the calls of `ProcessGroup::coalesced`: the backend may start them as one. The end
  /// comes also after an error.
  virtual void begin_coalescing() {}
  virtual void end_coalescing() {}

  // --- devices ---

  /// The group whose backend handles tensors of this kind instead of this one; null: there is none.
  [[nodiscard]] virtual GroupCore* group_for(c10::DeviceType /*device*/) { return nullptr; }
  /// Whether operations work on tensors of this kind where they are. Others are staged: copied to
  /// pinned CPU memory and back.
  [[nodiscard]] virtual bool supports(c10::DeviceType device) const { return device == c10::kCPU; }
  /// For devices that `supports` denies: whether data movement and messages may read and write
  /// tensors there, once the current stream has done what it has been given. These are not staged
  /// then.
  [[nodiscard]] virtual bool moves_data_on(c10::DeviceType /*device*/) const { return false; }

  // --- registered memory ---

  struct Memory {
    void* data = nullptr;
    std::shared_ptr<void> owner;
  };
  /// Whether the backend registers memory on such devices.
  [[nodiscard]] virtual bool has_memory_on(c10::DeviceType device) const {
    return device == c10::kCPU;
  }
  /// Allocates zeroed memory and registers it. Collective. Blocks: the calling thread. Throws:
  /// `CommError` on all ranks where one of them lacks the memory; see `agree_on_memory`.
  virtual Memory allocate(c10::Device device, std::size_t bytes) = 0;
  /// As `allocate`. All ranks promise that each call which uses this memory uses the same place of
  /// it on all of them, so that the backend may do more there.
  virtual Memory allocate_symmetric(c10::Device device, std::size_t bytes) {
    return allocate(device, bytes);
  }
  /// Whether a sum of these bytes, which the caller divides, is faster than an average. All ranks
  /// get the same answer for the same place of symmetric memory.
  [[nodiscard]] virtual bool prefers_sum(const void* /*data*/, std::size_t /*bytes*/,
                                         at::ScalarType /*dtype*/) const {
    return false;
  }
  /// Whether `ProcessGroup::IndexedBlocks` of these bytes of registered memory can be reduced.
  [[nodiscard]] virtual bool shares_memory(const void* /*data*/, std::size_t /*bytes*/) const {
    return false;
  }
  /// Where rank `rank` has what this rank has at `data`, in registered memory that this rank can
  /// read and write there; null: there is no such place.
  [[nodiscard]] virtual void* memory_of(const void* /*data*/, int /*rank*/) const {
    return nullptr;
  }
  /// See `ProcessGroup::mark_indexed`.
  virtual void mark_indexed(const void* /*data*/) {}

  /// What carries data between hosts, how fast it is, and why it was chosen; empty: this backend
  /// does not know, or there is one host.
  [[nodiscard]] virtual std::string describe_link() const { return ""; }

  // --- graphs ---

  /// Whether operations on tensors of a device that the backend supports can be captured in a graph
  /// of that device, and run again with it.
  [[nodiscard]] virtual bool can_be_captured() const { return false; }
  /// Comes before such a graph runs, which would not end once a rank is gone.
  /// Throws: the group's failure.
  virtual void check_graph(const char* /*op*/) {}
  /// A graph with operations of all ranks was enqueued on the current stream: watches its end, as
  /// that of a call named `op`.
  /// Collective.
  virtual void watch_graph(const char* /*op*/) {}
  /// The capture of a graph has ended, or the device has refused it: of the calls that were to go
  /// into the graph, those which are not enqueued never are, and all of them count as done. Returns
  /// the name of one that was not; empty: there is none.
  virtual std::string end_capture() { return ""; }

  // --- groups of some ranks ---

  /// Makes the backend of a group of several of these ranks, this one included. `part`: that group,
  /// whose environment says this rank's number in it; `members`: its ranks, as they are numbered in
  /// this group.
  ///
  /// Collective: over the members. Blocks: the calling thread.
  virtual std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                                  const std::vector<int>& members) = 0;
  /// Called instead of `make_group` on a rank that joins no group of several ranks, for backends
  /// whose split needs all ranks of this group. Collective, with `make_group` on other ranks.
  /// Blocks: the calling thread. Source: c10d::Backend::performNocolorSplit.
  virtual void split_without_color() {}

  // --- ends ---

  /// A look at the other ranks that any thread may take while the group lives: what happened to one
  /// that cannot come any more, else nothing. Null where the backend cannot tell without taking
  /// part in a collective.
  [[nodiscard]] virtual std::function<std::string()> peer_watch() { return nullptr; }
  /// Frees resources, after the last barrier of a close. Collective. Blocks: the calling thread.
  virtual void release() {}
  /// Tells the other ranks that this one aborts the group, and why. May be called again, with other
  /// reasons: the first one counts.
  virtual void abort(const std::string& /*reason*/) noexcept {}
  /// Called when a close fails: frees names that the rendezvous of a later group of this job needs.
  virtual void forget_names() noexcept {}

 protected:
  CommBackend() = default;
};

/// Tells all ranks whether each of them has its memory, so that none goes on alone.
///
/// Collective. Blocks: the calling thread. Throws: `CommError` with this text unless all have it.
void agree_on_memory(GroupContext& group, CommBackend& backend, bool has_memory,
                     const std::string& error_text);

}  // namespace lockstep
