// SPDX-License-Identifier: BSD-3-Clause
#include "data/sample_pieces.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "data/value_bytes.h"

namespace lockstep::data::detail {
namespace {

using native::MemoryRing;
using workers::SharedMemoryChannel;

bool can_pass(const at::Tensor& tensor, bool for_collate) {
  const bool is_dense = tensor.layout() == at::kStrided && tensor.is_cpu() &&
                        !tensor.is_quantized() &&
                        tensor.dim() <= static_cast<std::int64_t>(TensorLayout::kMaxDimensions);
  if (!is_dense || !for_collate) return is_dense;
  return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg() && !tensor.requires_grad();
}

}  // namespace

bool can_be_passed_on(const Value& sample, bool for_collate) {
  if (sample.is_tensor()) return can_pass(sample.tensor(), for_collate);
  if (sample.is_list()) {
    const auto& list = sample.list();
    return std::all_of(list.begin(), list.end(),
                       [&](const Value& child) { return can_be_passed_on(child, for_collate); });
  }
  if (!sample.is_map()) return true;
  const auto& map = sample.map();
  return std::all_of(map.begin(), map.end(), [&](const auto& entry) {
    return can_be_passed_on(entry.second, for_collate);
  });
}

class SamplePieces::View {
 public:
  View(MemoryRing& ring, workers::Piece piece)
      : bytes_(piece.bytes), memory_(ring.map_privately(piece.offset, piece.bytes)) {}
  ~View() { MemoryRing::unmap(memory_, bytes_); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  [[nodiscard]] std::byte* memory() const noexcept { return memory_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  // A page that was written to is this process's own.
  void own_all_pages() const {
    const auto page = MemoryRing::round_up_to_page(1);
    for (std::size_t offset = 0; offset < bytes_; offset += page) {
      auto* byte = reinterpret_cast<volatile unsigned char*>(memory_ + offset);
      *byte = *byte;
    }
  }

 private:
  std::size_t bytes_;
  std::byte* memory_;
};

void SamplePieces::put(std::size_t position, const Value& sample) {
  const ValueBytes bytes(sample);
  auto* memory =
      channel_.make_piece(slot_, SharedMemoryChannel::kItemPieces + position, bytes.size());
  bytes.write(memory);
  MemoryRing::unmap(memory, bytes.size());
}

std::optional<Value> SamplePieces::take(std::size_t position) {
  const auto piece = channel_.piece(slot_, SharedMemoryChannel::kItemPieces + position);
  if (piece.bytes == 0) return std::nullopt;
  const auto view = views_.emplace_back(std::make_shared<View>(channel_.ring(), piece));
  return ValueBytes::read(view->memory(), view->bytes(),
                          [view](std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
                            return at::from_blob(
                                place, sizes, [view](void*) {}, at::TensorOptions(dtype));
                          });
}

void SamplePieces::free() {
  let_go();
  channel_.free_pieces(slot_, SharedMemoryChannel::kItemPieces);
}

// A collate function may have kept samples.
void SamplePieces::let_go() {
  for (const auto& view : views_) {
    if (view.use_count() > 1) view->own_all_pages();
  }
  views_.clear();
}

}  // namespace lockstep::data::detail
