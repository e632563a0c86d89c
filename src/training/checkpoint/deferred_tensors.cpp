// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/deferred_tensors.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "native/posix/streaming_copy.h"
#include "training/safetensors/plain_bytes.h"

namespace lockstep::training {

DeferredTensors::DeferredTensors() : piece_(kPieceBytes) {}

bool DeferredTensors::can_read(const at::Tensor& tensor) {
  return has_plain_bytes(tensor) && tensor.nbytes() > 0;
}

void DeferredTensors::add(const at::Tensor& tensor, at::Tensor room) {
  Entry entry;
  entry.tensor = tensor;
  entry.bytes = static_cast<const std::byte*>(tensor.const_data_ptr());
  entry.copy = static_cast<std::byte*>(room.mutable_data_ptr());
  entry.room = std::move(room);
  entry.size = tensor.nbytes();
  entry.samples = sample(entry);
  entries_.emplace(tensor.unsafeGetTensorImpl(), std::move(entry));
  ++unread_;
}

DeferredTensors::Samples DeferredTensors::sample(const Entry& entry) {
  Samples samples{};
  const std::size_t width = std::min(sizeof(std::uint64_t), entry.size);
  for (std::size_t i = 0; i < kSamples; ++i) {
    const std::size_t at = (entry.size - width) * i / (kSamples - 1);
    std::memcpy(&samples[i], entry.bytes + at, width);
  }
  return samples;
}

std::uint64_t DeferredTensors::release() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(is_released_, true)) return 0;
  std::uint64_t copied = 0;
  for (auto& [key, entry] : entries_) {
    const std::size_t left = entry.size - entry.is_read;
    if (left == 0) continue;
    entry.is_unchanged = entry.samples == sample(entry);
    native::streaming_copy(entry.copy + entry.is_read, entry.bytes + entry.is_read, left);
    copied += left;
  }
  return copied;
}

std::span<const std::byte> DeferredTensors::take_piece(Entry& entry, std::size_t offset) {
  const std::size_t size = std::min(kPieceBytes, entry.size - offset);
  bool is_over = false;
  std::span<const std::byte> piece;
  {
    // Held while a piece is copied, and never while the disk is waited for.
    const std::lock_guard lock(mutex_);
    if (is_released_) {
      piece = {entry.copy + offset, size};
      is_over = true;
    } else {
      std::memcpy(piece_.data(), entry.bytes + offset, size);
      piece = std::span(piece_).first(size);
      entry.is_read = offset + size;
      if (entry.is_read == entry.size) {
        entry.is_unchanged = entry.samples == sample(entry);
        is_over = --unread_ == 0;
      }
    }
    TORCH_CHECK(entry.is_unchanged,
                "a tensor has changed while it was being read; with CheckpointerOptions::deferred, "
                "call before_step() before the optimizer's step(), and before anything else that "
                "writes to parameters");
  }
  if (is_over) end_reading();
  return piece;
}

void DeferredTensors::end_reading() {
  if (when_over_) std::exchange(when_over_, nullptr)();
}

void DeferredTensors::read(const at::Tensor& tensor, const UsePiece& use) {
  const auto found = entries_.find(tensor.unsafeGetTensorImpl());
  if (found == entries_.end()) return TensorSource::read(tensor, use);
  Entry& entry = found->second;
  for (std::size_t offset = 0; offset < entry.size; offset += kPieceBytes) {
    use(take_piece(entry, offset));
  }
}

}  // namespace lockstep::training
