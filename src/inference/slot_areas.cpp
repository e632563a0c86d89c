// SPDX-License-Identifier: BSD-3-Clause
#include "inference/slot_areas.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "native/posix/page_size.h"
#include "native/posix/read_only_pages.h"

namespace lockstep::inference::detail {
namespace {

// Between the places of two tensors. Memory is taken for what is used of it alone.
constexpr std::size_t kPlace = std::size_t{1} << 34;

}  // namespace

TensorForm form_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined(), "the tensor is undefined");
  TORCH_CHECK(tensor.layout() == c10::kStrided && !tensor.is_quantized() && !tensor.is_nested(),
              "the tensor is sparse, quantized or nested; it must be dense");
  TORCH_CHECK(static_cast<std::size_t>(tensor.dim()) <= TensorForm::kMostDimensions,
              "the tensor has ", tensor.dim(), " dimensions; it may have ",
              TensorForm::kMostDimensions);
  TORCH_CHECK(tensor.nbytes() <= kPlace, "the tensor has ", tensor.nbytes(), " bytes; it may have ",
              kPlace);
  TensorForm form;
  form.dtype = static_cast<std::int32_t>(tensor.scalar_type());
  form.dimensions = static_cast<std::int32_t>(tensor.dim());
  std::copy(tensor.sizes().begin(), tensor.sizes().end(), form.sizes.begin());
  form.bytes = static_cast<std::uint64_t>(tensor.numel() * tensor.element_size());
  return form;
}

SlotAreas::SlotAreas(std::shared_ptr<RequestChannel> channel, bool protects_inputs)
    : channel_(std::move(channel)),
      protects_inputs_(protects_inputs),
      blocks_(channel_->shape().slots * channel_->areas()) {}

void SlotAreas::write(std::size_t slot, std::size_t area, const at::Tensor& tensor,
                      TensorForm& form) {
  form = form_of(tensor);
  if (form.bytes == 0) return;
  make_room(slot, area, form.bytes);
  std::byte* const memory = mapped(slot, area, form.bytes);
  // Not for tensors whose bytes are not their values, as those of conj().
  if (tensor.is_cpu() && tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    std::memcpy(memory, tensor.const_data_ptr(), form.bytes);
    return;
  }
  const c10::IntArrayRef sizes(form.sizes.data(), static_cast<std::size_t>(form.dimensions));
  at::from_blob(memory, sizes, at::TensorOptions().dtype(tensor.scalar_type())).copy_(tensor);
}

at::Tensor SlotAreas::read(std::size_t slot, std::size_t area, const TensorForm& form) {
  // A tensor without elements has an address all the same.
  static std::byte nothing{};
  std::byte* const memory = form.bytes == 0 ? &nothing : mapped(slot, area, form.bytes);
  const c10::IntArrayRef sizes(form.sizes.data(), static_cast<std::size_t>(form.dimensions));
  return at::from_blob(memory, sizes,
                       at::TensorOptions().dtype(static_cast<c10::ScalarType>(form.dtype)));
}

void SlotAreas::make_room(std::size_t slot, std::size_t area, std::size_t bytes) {
  auto& room = channel_->room(slot, area);
  const auto wanted = native::round_up_to_page(bytes);
  if (wanted <= room.load(std::memory_order_acquire)) return;
  channel_->region().reserve((slot * channel_->areas() + area) * kPlace, wanted);
  room.store(wanted, std::memory_order_release);
}

std::byte* SlotAreas::mapped(std::size_t slot, std::size_t area, std::size_t bytes) {
  const auto index = slot * channel_->areas() + area;
  auto& block = blocks_[index];
  if (block && block->size() >= bytes) return block->data();
  const auto room =
      static_cast<std::size_t>(channel_->room(slot, area).load(std::memory_order_acquire));
  block.reset();
  block.emplace(channel_->region().map(index * kPlace, room));
  if (!protects_inputs_) native::keep_out_of_forks(block->data(), block->size());
  if (protects_inputs_ && area == kInput) {
    // A kernel that refuses leaves a member that writes to its input unnoticed, and no more.
    static_cast<void>(native::make_read_only(block->data(), block->size()));
  }
  return block->data();
}

}  // namespace lockstep::inference::detail
