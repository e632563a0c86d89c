// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "training/safetensors/file_writer.h"

namespace lockstep::training {

/// The tensors of a snapshot that are still the program's own. The thread that writes the snapshot
/// reads them where they lie, until the program says that its optimizer is about to change them:
/// `release` copies what has not been read by then.
///
/// No version counter of LibTorch sees what an optimizer writes. So some words of each tensor are
/// kept, and compared when it has been read or is copied: where they have changed, a program has
/// forgotten to call `release`, and the save fails.
///
/// Thread-safety: one thread reads, and another one calls the other members. `add` comes first.
class DeferredTensors final : public TensorSource {
 public:
  DeferredTensors();

  /// Whether a tensor can be read in place: its bytes lie in the order of the file, on the CPU.
  [[nodiscard]] static bool can_read(const at::Tensor& tensor);

  /// `room`: bytes for all of `tensor`, which are written only by `release`.
  void add(const at::Tensor& tensor, at::Tensor room);
  [[nodiscard]] bool is_empty() const { return entries_.empty(); }
  /// Called once by the reading thread, as soon as it reads nothing of the program's any more.
  void when_over(std::function<void()> call) { when_over_ = std::move(call); }

  /// From now on the program may change the tensors. Returns how many bytes it has copied.
  /// Blocks: while it copies, and at most one piece of a file longer.
  std::uint64_t release();

  /// Throws: `c10::Error` when the tensor has changed since it was added.
  void read(const at::Tensor& tensor, const UsePiece& use) override;

 private:
  static constexpr std::size_t kSamples = 16;
  using Samples = std::array<std::uint64_t, kSamples>;

  struct Entry {
    at::Tensor tensor;  // the key is its address
    at::Tensor room;
    const std::byte* bytes = nullptr;
    std::byte* copy = nullptr;
    std::size_t size = 0;
    std::size_t is_read = 0;  // so many bytes of it; guarded by mutex_
    Samples samples{};
    bool is_unchanged = true;  // guarded by mutex_
  };

  [[nodiscard]] static Samples sample(const Entry& entry);
  /// The bytes from `offset` on, as they were when the tensor was added.
  std::span<const std::byte> take_piece(Entry& entry, std::size_t offset);
  void end_reading();

  std::mutex mutex_;
  std::unordered_map<const c10::TensorImpl*, Entry> entries_;
  std::size_t unread_ = 0;        // entries; guarded by mutex_
  bool is_released_ = false;      // guarded by mutex_
  std::vector<std::byte> piece_;  // of the reading thread
  std::function<void()> when_over_;
};

}  // namespace lockstep::training
