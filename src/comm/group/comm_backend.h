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

/// What carries the calls of one group on one rank: the interface that a new backend implements.
/// Programs call `ProcessGroup`. Before a backend sees a call, its arguments have been checked,
/// autograd has heard of what it writes, and no other thread is in the group. A backend makes
/// operations; the group's queue pushes them forward.
///
/// Ordering: what is marked "Collective" is called in the same order on all ranks, and
/// `make_operation` in the order of the program's collectives. `make_send` and `make_receive` may
/// come between them elsewhere on each rank.
/// Blocks: nothing, where a function does not say so. Such a function waits until
/// `GroupContext::call_timeout` has passed at the latest, and names who is missing. `abandon`,
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

  /// The group that carries tensors of this kind instead of this backend; null: there is none.
  [[nodiscard]] virtual GroupCore* carrier_for(c10::DeviceType /*device*/) { return nullptr; }
  /// Whether operations take tensors of this kind as they are. Others are staged: copied to pinned
  /// CPU memory and back.
  [[nodiscard]] virtual bool takes(c10::DeviceType device) const { return device == c10::kCPU; }
  /// Whether movements and messages may read and write memory of a device that operations do not
  /// take, once the current stream has done what it has been given. Then nothing of theirs is
  /// staged.
  [[nodiscard]] virtual bool moves(c10::DeviceType /*device*/) const { return false; }

  // --- group memory ---

  struct Memory {
    void* data = nullptr;
    std::shared_ptr<void> owner;
  };
  /// Whether the group has memory of its own on such devices.
  [[nodiscard]] virtual bool has_memory_on(c10::DeviceType device) const {
    return device == c10::kCPU;
  }
  /// A zeroed piece of it. Collective. Blocks: the calling thread. Throws: `CommError` on all ranks
  /// where one of them lacks the memory; see `agree_on_memory`.
  virtual Memory allocate(c10::Device device, std::size_t bytes) = 0;
  /// Whether this rank's part of group memory is seen by all ranks, and holds these bytes.
  [[nodiscard]] virtual bool shares_memory(const void* /*data*/, std::size_t /*bytes*/) const {
    return false;
  }
  /// See `ProcessGroup::keep_for_pieces`.
  virtual void keep_for_pieces(const void* /*data*/) {}

  // --- groups of some ranks ---

  /// What carries a group of several of these ranks, this one included. `part`: that group, whose
  /// environment says this rank's place in it; `members`: its ranks, as they are numbered here.
  ///
  /// Collective: over the members. Blocks: the calling thread.
  virtual std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                                  const std::vector<int>& members) = 0;
  /// This rank's part of a division in which it joins no group of several ranks, for backends that
  /// need all ranks of this group for it. Collective, with `make_group` on other ranks. Blocks: the
  /// calling thread.
  virtual void decline_group() {}

  // --- ends ---

  /// A look at the other ranks that any thread may take while the group lives: what happened to one
  /// that cannot come any more, else nothing. Null where the backend cannot tell without taking
  /// part in a collective.
  [[nodiscard]] virtual std::function<std::string()> peer_watch() { return nullptr; }
  /// Lets resources go after the last meeting of a close. Collective. Blocks: the calling thread.
  virtual void release() {}
  /// Tells the other ranks that this one gave up, and why. May be called again, with other reasons:
  /// the first one counts.
  virtual void abandon(const std::string& /*reason*/) noexcept {}
  /// Called when a close fails: gives back what would keep a later group of this job from meeting.
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
