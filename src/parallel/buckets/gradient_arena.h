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

#include "parallel/buckets/arena_layout.h"

namespace lockstep {

/// Registered memory in blocks that just fit gradients. Autograd allocates in it while backward
/// runs, so that gradients are reduced where autograd makes them and nothing is copied.
///
/// A request for memory tells its size, not its purpose. So any request for just as many bytes as
/// some gradient has gets a block, but never one that a gradient might need. There are as many
/// blocks as parameters; where a request would leave too few, another block is cut from spare
/// memory first, or the request gets none. It gets none either when this iteration has all
/// gradients of that size. So `make` always finds a block, whatever got the others, and however
/// long they are kept.
///
/// A block is free once the last tensor in it is gone; the arena lives as long as such tensors.
/// Gradients of earlier iterations that the program keeps stay where they are as long as there are
/// other blocks; then they move to ordinary memory.
/// Thread-safety: `allocate` and `free` may be called from any thread; the reducer's lock guards
/// everything else.
class GradientArena : public std::enable_shared_from_this<GradientArena> {
 public:
  /// `memory`: registered memory of `layout.bytes`, of the gradients' dtype.
  [[nodiscard]] static std::shared_ptr<GradientArena> create(at::Tensor memory, ArenaLayout layout);
  ~GradientArena();
  GradientArena(const GradientArena&) = delete;
  GradientArena& operator=(const GradientArena&) = delete;

  // --- any thread ---
  /// Returns a block of just this size, or nothing where there is none to spare. The pointer is its
  /// own context, as that of LibTorch's allocator.
  [[nodiscard]] c10::DataPtr allocate(std::size_t bytes);
  /// Frees what any arena has allocated. Returns false for any other pointer.
  static bool free(void* data) noexcept;
  /// Requests get blocks only while the arena is open.
  void open() noexcept { is_open_ = true; }
  void close() noexcept { is_open_ = false; }
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }

  // --- the reducer ---
  /// Keeps a gradient where autograd made it: it becomes this parameter's gradient of this
  /// iteration. Returns false where it fills no block of its own.
  [[nodiscard]] bool try_keep(std::size_t parameter, const at::Tensor& gradient);
  /// Makes a tensor for this parameter's gradient of this iteration, shaped as `like`. It lies in
  /// the block of `current`, the gradient that the parameter still has, if that fills one;
  /// otherwise in a block in which nobody holds a tensor.
  [[nodiscard]] at::Tensor make(std::size_t parameter, const at::Tensor& like,
                                const at::Tensor& current = {});
  /// Notes that a gradient that waits for a later iteration (accumulation) is this parameter's.
  void adopt(std::size_t parameter, const at::Tensor& gradient);
  void end_iteration();
  /// Moves all gradients that somebody still holds to ordinary memory, as far as there is any, so
  /// that they do not keep the arena's.
  void vacate() noexcept;

  [[nodiscard]] const at::Tensor& memory() const noexcept { return memory_; }
  /// At which element of the arena the tensor begins; nothing where it lies elsewhere.
  [[nodiscard]] std::optional<std::int64_t> place_of(const at::Tensor& tensor) const;

 private:
  enum class State : std::uint8_t {
    None,  // of spare memory, at present not cut out
    Free,
    Allocated,  // nobody knows yet what for
    Current,    // holds a parameter's gradient of this iteration
    Latest,     // holds a parameter's latest gradient; its next one may lie here, or move it away
    Old,        // holds a gradient that somebody keeps although its parameter has another
  };
  struct Block {
    std::size_t size = 0;   // number in sizes
    std::size_t begin = 0;  // byte
    State state = State::Free;
    int pointers = 0;           // that have not been freed
    std::size_t parameter = 0;  // whose gradient it holds, if Current or Latest
    // The gradient's storage, if Current, Latest or Old.
    std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> storage = std::nullopt;
  };
  struct Count {  // of one size
    std::size_t free = 0;
    std::size_t owned = 0;  // Current and Latest: each by another parameter
    std::size_t current = 0;
  };

  GradientArena(at::Tensor memory, ArenaLayout layout);

  [[nodiscard]] bool holds(const void* data) const noexcept;
  [[nodiscard]] std::optional<std::size_t> block_at(const void* data) const;
  [[nodiscard]] std::optional<std::size_t> block_of(const at::Tensor& gradient) const;
  [[nodiscard]] std::optional<std::size_t> find_free(std::size_t size) const;
  [[nodiscard]] std::byte* begin() const noexcept;
  [[nodiscard]] bool cut_spare(std::size_t size);
  void return_spare(std::size_t size);

  /// Whether one free block less would be too few: each parameter has one, or finds one.
  [[nodiscard]] bool has_too_few(std::size_t size) const;
  [[nodiscard]] c10::DataPtr make_pointer(std::size_t block);
  void set_owner(std::size_t block, std::size_t parameter, State state);
  void note_storage(std::size_t block, const c10::Storage& storage);
  /// Is called without the lock, since it frees memory.
  void move_away(std::size_t block);
  /// The parameter's block, if it has to be cleared because there is no other for its gradient.
  [[nodiscard]] std::optional<std::size_t> block_to_clear(std::size_t parameter);
  [[nodiscard]] std::shared_ptr<GradientArena> drop_pointer(void* data) noexcept;

  at::Tensor memory_;
  ArenaLayout layout_;
  std::atomic<bool> is_open_ = false;

  mutable std::mutex mutex_;                       // guards what follows
  std::vector<Block> blocks_;                      // those of `sizes`, then of spare memory
  std::vector<std::optional<std::size_t>> owned_;  // by each parameter
  std::vector<Count> counts_;
  std::size_t pointers_ = 0;
  std::shared_ptr<GradientArena> self_;  // while there are pointers
};

}  // namespace lockstep
