// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/activation_slots.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <string>
#include <utility>

#include "comm/group/group_core.h"
#include "native/posix/owning_process.h"

namespace lockstep::pipeline {
namespace {

// A cache line: the marks of two slots never share one, and tensors begin at one.
constexpr std::size_t kLine = 64;

std::size_t up_to_line(std::size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

std::size_t bytes_of_tensor(at::IntArrayRef sizes, at::ScalarType dtype) {
  return static_cast<std::size_t>(c10::multiply_integers(sizes)) * c10::elementSize(dtype);
}

}  // namespace

std::shared_ptr<ActivationSlots> ActivationSlots::make(ProcessGroup& group, std::int64_t slots,
                                                       std::size_t bytes) {
  bytes = up_to_line(bytes);
  const auto count = static_cast<std::int64_t>((bytes + kLine) * static_cast<std::size_t>(slots));
  at::Tensor memory;
  try {
    memory = group.allocate({count}, at::kByte);
  } catch (const TimeoutError&) {
    throw;
  } catch (const PeerLostError&) {
    throw;
  } catch (const CommError& error) {  // too little memory, on all ranks
    logging::info("pipeline: without activation slots: " + std::string(error.what()));
    return nullptr;
  }
  std::vector<std::byte*> blocks;
  for (int rank = 0; rank < group.size(); ++rank) {
    void* block = group.core().backend().memory_of(memory.const_data_ptr(), rank);
    if (block == nullptr) return nullptr;
    blocks.push_back(static_cast<std::byte*>(block));
  }
  std::shared_ptr<ActivationSlots> made(
      new ActivationSlots(std::move(memory), std::move(blocks), slots, bytes));
  made->rank_ = group.rank();
  return made;
}

std::atomic_ref<std::uint32_t> ActivationSlots::is_taken(int rank, std::int64_t slot) const {
  std::byte* place =
      blocks_[static_cast<std::size_t>(rank)] + static_cast<std::size_t>(slot) * kLine;
  return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(place));
}

std::byte* ActivationSlots::begin_of(int rank, std::int64_t slot) const {
  return blocks_[static_cast<std::size_t>(rank)] + static_cast<std::size_t>(slots_) * kLine +
         static_cast<std::size_t>(slot) * bytes_;
}

std::size_t ActivationSlots::bytes_of(const std::vector<at::Tensor>& tensors) {
  std::size_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) continue;
    if (!tensor.is_cpu()) return 0;
    bytes += up_to_line(tensor.nbytes());
  }
  return bytes;
}

std::optional<std::int64_t> ActivationSlots::try_put(const std::vector<at::Tensor>& tensors) {
  const std::size_t bytes = bytes_of(tensors);
  if (bytes == 0 || bytes > bytes_) return std::nullopt;
  for (std::int64_t tried = 0; tried < slots_; ++tried) {
    const std::int64_t slot = next_;
    next_ = (next_ + 1) % slots_;
    const auto mark = is_taken(rank_, slot);
    if (mark.load(std::memory_order_acquire) != 0) continue;
    mark.store(1, std::memory_order_relaxed);
    std::byte* place = begin_of(rank_, slot);
    for (const at::Tensor& tensor : tensors) {
      if (!tensor.defined()) continue;
      if (tensor.numel() > 0) {
        at::from_blob(place, tensor.sizes(), tensor.options().requires_grad(false)).copy_(tensor);
      }
      place += up_to_line(tensor.nbytes());
    }
    return slot;
  }
  return std::nullopt;
}

/// The last reference of a reader to a slot.
struct ActivationSlots::Reader::Lease {
  Lease(std::shared_ptr<ActivationSlots> slots, int of, std::int64_t number)
      : memory(std::move(slots)), from(of), slot(number) {}
  ~Lease() {
    // A copy in a fork gives nothing back.
    if (owner.is_current()) memory->is_taken(from, slot).store(0, std::memory_order_release);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  std::shared_ptr<ActivationSlots> memory;
  int from;
  std::int64_t slot;
  native::OwningProcess owner;
};

ActivationSlots::Reader::Reader(std::shared_ptr<ActivationSlots> slots, int from,
                                std::int64_t slot) {
  TORCH_CHECK(slots != nullptr && slot >= 0 && slot < slots->slots_, "pipeline: rank ", from,
              " named slot ", slot, " of its memory, which it does not have");
  lease_ = std::make_shared<Lease>(std::move(slots), from, slot);
}

at::Tensor ActivationSlots::Reader::next(at::IntArrayRef sizes, at::ScalarType dtype) {
  const std::size_t bytes = up_to_line(bytes_of_tensor(sizes, dtype));
  const ActivationSlots& memory = *lease_->memory;
  TORCH_CHECK(bytes <= memory.bytes_ && offset_ <= memory.bytes_ - bytes, "pipeline: rank ",
              lease_->from, " described more than fits a slot of its memory");
  std::byte* place = memory.begin_of(lease_->from, lease_->slot) + offset_;
  offset_ += bytes;
  return at::from_blob(
      place, sizes, [lease = lease_](void*) mutable { lease.reset(); },
      at::TensorOptions().dtype(dtype));
}

}  // namespace lockstep::pipeline
