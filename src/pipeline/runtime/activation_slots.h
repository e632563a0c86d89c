// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace lockstep::pipeline {

/// Memory of a group in which a rank leaves tensors that another rank of its host reads where they
/// are.
///
/// Each rank has equally many slots. It fills a free one, and says to the reader which it was. The
/// slot is free again when the reader's last tensor in it is gone. Messages of the group order what
/// is written and read. Thread-safety: as the group's; tensors in slots may end in any thread.
class ActivationSlots {
 public:
  /// Null on all ranks where they do not share such memory, or there is too little.
  /// Collective. Blocks: the calling thread. Throws: what a collective throws.
  [[nodiscard]] static std::shared_ptr<ActivationSlots> make(ProcessGroup& group,
                                                             std::int64_t slots, std::size_t bytes);

  /// What these tensors take in a slot. 0: they have no elements, or not all are on the CPU.
  [[nodiscard]] static std::size_t bytes_of(const std::vector<at::Tensor>& tensors);

  /// Copies the tensors to a free slot of this rank; nothing where none is free, or they do not
  /// fit or take nothing: nobody would read, and so free, the slot.
  [[nodiscard]] std::optional<std::int64_t> try_put(const std::vector<at::Tensor>& tensors);

  /// A slot of another rank, until the last tensor in it is gone.
  class Reader {
   public:
    Reader(std::shared_ptr<ActivationSlots> slots, int from, std::int64_t slot);
    /// The next tensor, in the order of `try_put`. Throws: `c10::Error` where the slot has no such
    /// tensor.
    [[nodiscard]] at::Tensor next(at::IntArrayRef sizes, at::ScalarType dtype);

   private:
    struct Lease;
    std::shared_ptr<Lease> lease_;
    std::size_t offset_ = 0;
  };

 private:
  ActivationSlots(at::Tensor memory, std::vector<std::byte*> blocks, std::int64_t slots,
                  std::size_t bytes)
      : memory_(std::move(memory)), blocks_(std::move(blocks)), slots_(slots), bytes_(bytes) {}

  [[nodiscard]] std::atomic_ref<std::uint32_t> is_taken(int rank, std::int64_t slot) const;
  [[nodiscard]] std::byte* begin_of(int rank, std::int64_t slot) const;

  at::Tensor memory_;  // keeps all blocks
  std::vector<std::byte*> blocks_;
  std::int64_t slots_;
  std::size_t bytes_;  // of a slot
  int rank_ = 0;
  std::int64_t next_ = 0;
};

}  // namespace lockstep::pipeline
