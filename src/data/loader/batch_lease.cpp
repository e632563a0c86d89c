// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/batch_lease.h"

#include <c10/core/Storage.h>
#include <c10/core/TensorImpl.h>
#include <c10/core/TensorOptions.h>

#include <utility>

namespace lockstep::data::detail {

using workers::TaskChannel;

BatchLease::BatchLease(std::shared_ptr<TaskChannel> owner) : channel_(std::move(owner)) {}

void BatchLease::drop(void* lease) {
  auto* self = static_cast<BatchLease*>(lease);
  if (self->holders_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete self;
}

// What `at::for_blob` makes, in half the time; this is the longest part of a delivery.
// `SampleLayout` has seen to it that the sizes are possible.
at::Tensor BatchLease::tensor(std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
  holders_.fetch_add(1, std::memory_order_relaxed);
  c10::DataPtr memory(place, this, &BatchLease::drop, c10::kCPU);
  const auto type = c10::scalarTypeToTypeMeta(dtype);
  const auto bytes = static_cast<std::size_t>(c10::multiply_integers(sizes)) * type.itemsize();
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), bytes, std::move(memory), nullptr, /*resizable=*/false);
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), at::TensorOptions(dtype).computeDispatchKey(), type);
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return tensor;
}

SlotLease::SlotLease(std::shared_ptr<TaskChannel> owner, std::size_t slot,
                     std::shared_ptr<DeferredRelease> deferred)
    : BatchLease(std::move(owner)), slot_(slot), deferred_(std::move(deferred)) {
  channel().hold(slot);
}

SlotLease::~SlotLease() {
  if (!is_ours()) return;
  if (deferred_) {
    deferred_->defer(slot_);
  } else {
    channel().release(slot_);
  }
}

BlockLease::BlockLease(std::shared_ptr<TaskChannel> owner, native::MappedBlock block)
    : BatchLease(std::move(owner)), block_(std::move(block)) {}

BlockLease::~BlockLease() {
  if (is_ours()) block_.drop();
}

}  // namespace lockstep::data::detail
