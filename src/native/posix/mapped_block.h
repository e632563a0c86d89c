// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <utility>

namespace lockstep::native {

/// A view of a part of a `SharedMemoryRegion`.
///
/// Thread-safety: none; what it shows is shared. Owns: this process's mapping, not the memory.
class MappedBlock {
 public:
  MappedBlock(std::byte* memory, std::size_t bytes) : memory_(memory), bytes_(bytes) {}
  ~MappedBlock();
  MappedBlock(MappedBlock&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), bytes_(other.bytes_) {}
  MappedBlock& operator=(MappedBlock&&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return memory_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }
  /// Gives the memory itself back to the system, also after `SharedMemoryRegion::close_descriptor`.
  void drop() noexcept;

 private:
  std::byte* memory_;
  std::size_t bytes_;
};

}  // namespace lockstep::native
