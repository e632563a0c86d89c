// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstddef>
#include <memory>

#include "data/loader/deferred_release.h"
#include "native/posix/mapped_block.h"
#include "native/posix/owning_process.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// Counts the tensors that lie in a block of memory, and gives it back when the last of them is
/// gone, in whatever thread, even after the loader is gone. Each tensor's storage has the lease
/// itself as its context, so a delivery allocates one lease and nothing more of its own.
///
/// Thread-safety: `drop` from any thread. Owns: the region, together with others.
class BatchLease {
 public:
  virtual ~BatchLease() = default;
  BatchLease(const BatchLease&) = delete;
  BatchLease& operator=(const BatchLease&) = delete;

  static void drop(void* lease);
  [[nodiscard]] at::Tensor tensor(std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype);

 protected:
  explicit BatchLease(std::shared_ptr<workers::TaskChannel> owner);

  /// False in a process that the program has forked: a copy of a lease gives nothing back.
  [[nodiscard]] bool is_ours() const { return process_.is_current(); }
  [[nodiscard]] workers::TaskChannel& channel() const { return *channel_; }

 private:
  std::shared_ptr<workers::TaskChannel> channel_;
  native::OwningProcess process_;
  std::atomic<std::size_t> holders_{1};  // the delivery, until all tensors are made
};

/// The lease of a slot, which is Held as long as the lease lives.
class SlotLease : public BatchLease {
 public:
  /// With `deferred`, a device may still read the slot when the last tensor is gone, so its release
  /// is deferred.
  SlotLease(std::shared_ptr<workers::TaskChannel> owner, std::size_t slot,
            std::shared_ptr<DeferredRelease> deferred);
  ~SlotLease() override;

 private:
  std::size_t slot_;
  std::shared_ptr<DeferredRelease> deferred_;
};

/// The lease of a batch that has memory of its own.
class BlockLease : public BatchLease {
 public:
  BlockLease(std::shared_ptr<workers::TaskChannel> owner, native::MappedBlock block);
  ~BlockLease() override;
  [[nodiscard]] const native::MappedBlock& block() const { return block_; }

 private:
  native::MappedBlock block_;
};

struct DropLease {
  void operator()(BatchLease* lease) const { BatchLease::drop(lease); }
};
template <class Lease>
using HeldLease = std::unique_ptr<Lease, DropLease>;

}  // namespace lockstep::data::detail
