// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Storage.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace lockstep {

/// Group memory in blocks that just fit gradients, which autograd is lent while backward runs: then
/// gradients are reduced where it puts them, and nothing is copied.
///
/// Who asks for memory does not say what for, only how much. So a block is lent to whoever wants
/// just as many bytes as some gradient has, but never one that a gradient might need: there are as
/// many blocks as parameters, and where one lent would leave too few, another one is cut from spare
/// memory first, or nothing is lent; nor where this cycle has all gradients of that size. So `make`
/// always finds a block, whatever got the others, and however long it keeps them.
///
/// A block is free once the last tensor in it is gone; the arena lives as long as such tensors.
/// Gradients of earlier cycles that the program keeps stay where they are as long as there are
/// other blocks; then they move to ordinary memory.
/// Thread-safety: lending and giving back from any thread; the rest is the reducer's.
class GradientArena : public std::enable_shared_from_this<GradientArena> {
 public:
  /// How the memory is divided. Depends on its arguments alone, so that all ranks have the same.
  struct Division {
    struct Size {
      std::size_t bytes = 0;   ///< of one gradient
      std::size_t begin = 0;   ///< byte at which the blocks of this size begin
      std::size_t blocks = 0;  ///< one for each parameter of this size
      std::size_t first = 0;   ///< number of the first one
    };
    std::vector<Size> sizes;
    std::vector<std::size_t> size_of;  ///< of each parameter, as a number in `sizes`
    std::size_t spare_begin = 0;
    std::size_t bytes = 0;  ///< in all
  };
  /// `gradients`: bytes of each parameter's. Spare memory is up to three times the largest.
  [[nodiscard]] static Division divide(const std::vector<std::size_t>& gradients);

  /// `memory`: group memory of `division.bytes`, of the gradients' dtype.
  [[nodiscard]] static std::shared_ptr<GradientArena> create(at::Tensor memory, Division division);
  ~GradientArena();
  GradientArena(const GradientArena&) = delete;
  GradientArena& operator=(const GradientArena&) = delete;

  // --- any thread ---
  /// A block of just this size; nothing where there is none to spare. The pointer is its own
  /// context, as that of LibTorch's allocator.
  [[nodiscard]] c10::DataPtr lend(std::size_t bytes);
  /// Gives back what some arena has lent. False for any other pointer.
  static bool give_back(void* data) noexcept;
  /// While closed, nothing is lent.
  void open() noexcept { is_open_ = true; }
  void close() noexcept { is_open_ = false; }
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }

  // --- the reducer ---
  /// Whether this gradient fills a block of its own that is the parameter's now, until the
  /// cycle's end.
  [[nodiscard]] bool take(std::size_t parameter, const at::Tensor& gradient);
  /// A block for this parameter's gradient of this cycle, shaped as `like`. It is the one in which
  /// `current` lies, the gradient that the parameter still has, if that fills it; otherwise nobody
  /// holds a tensor in it.
  [[nodiscard]] at::Tensor make(std::size_t parameter, const at::Tensor& like,
                                const at::Tensor& current = {});
  /// Notes that a gradient that waits for a later cycle (accumulation) is this parameter's.
  void adopt(std::size_t parameter, const at::Tensor& gradient);
  void end_cycle();
  /// Moves all gradients that somebody still holds to ordinary memory, so that they do not keep
  /// this one. As far as there is memory.
  void vacate() noexcept;

  [[nodiscard]] const at::Tensor& memory() const noexcept { return memory_; }
  /// Whether the tensor lies in here, and at which element it begins.
  [[nodiscard]] std::optional<std::int64_t> place_of(const at::Tensor& tensor) const;

 private:
  enum class State : std::uint8_t {
    None,  // of spare memory, at present not cut out
    Free,
    Lent,   // nobody knows yet what for
    Taken,  // a gradient of this cycle
    Given,  // the latest gradient of a parameter; its next one may lie here, or move it away
    Old,    // a gradient that somebody keeps although its parameter has another
  };
  struct Block {
    std::size_t size = 0;   // number in sizes
    std::size_t begin = 0;  // byte
    State state = State::Free;
    int leases = 0;
    std::size_t parameter = 0;  // of Taken and Given
    // Of Taken, Given and Old.
    std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> storage = std::nullopt;
  };
  struct Count {  // of one size
    std::size_t free = 0;
    std::size_t owned = 0;  // Taken and Given: each by another parameter
    std::size_t taken = 0;
  };

  GradientArena(at::Tensor memory, Division division);

  [[nodiscard]] bool holds(const void* data) const noexcept;
  [[nodiscard]] std::optional<std::size_t> block_at(const void* data) const;
  [[nodiscard]] std::optional<std::size_t> block_of(const at::Tensor& gradient) const;
  [[nodiscard]] std::optional<std::size_t> find_free(std::size_t size) const;
  [[nodiscard]] std::byte* begin() const noexcept;
  // Blocks of spare memory.
  [[nodiscard]] bool cut_spare(std::size_t size);
  void return_spare(std::size_t size);

  /// Whether one free block less would be too few: each parameter has one, or finds one.
  [[nodiscard]] bool has_too_few(std::size_t size) const;
  [[nodiscard]] c10::DataPtr lease(std::size_t block);
  void set_owner(std::size_t block, std::size_t parameter, State state);
  void note_storage(std::size_t block, const c10::Storage& storage);
  /// Without the lock, since memory is given back.
  void move_away(std::size_t block);
  /// The parameter's block, if another one is wanted, and there is none.
  [[nodiscard]] std::optional<std::size_t> block_to_clear(std::size_t parameter);
  [[nodiscard]] std::shared_ptr<GradientArena> end_lease(void* data) noexcept;

  at::Tensor memory_;
  Division division_;
  std::atomic<bool> is_open_ = false;

  mutable std::mutex mutex_;                       // guards what follows
  std::vector<Block> blocks_;                      // those of `sizes`, then of spare memory
  std::vector<std::optional<std::size_t>> owned_;  // by each parameter
  std::vector<Count> counts_;
  std::size_t leases_ = 0;
  std::shared_ptr<GradientArena> self_;  // while there are leases
};

}  // namespace lockstep
