// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>

#include "native/posix/file_descriptor.h"
#include "native/posix/owning_process.h"

namespace lockstep::native {

/// A piece of memory that several processes map. It has no name: whoever holds the descriptor can
/// map it, nobody else.
///
/// Thread-safety: none needed; immutable after construction.
/// Owns: the mapping and the descriptor. The memory itself lives until the last process unmaps it.
/// Forks do not get the mapping: their copies of this object own nothing.
class SharedMemory {
 public:
  /// Makes `bytes` of zeroed memory in /dev/shm, all of it reserved: a lack of room is an error
  /// here, never a SIGBUS later. It has no name at any moment, except where the system makes no
  /// such files: there, a random one exists within this call. Throws: `std::system_error`; for
  /// ENOSPC the text says how many bytes were wanted and how many are free.
  [[nodiscard]] static std::shared_ptr<SharedMemory> create(std::size_t bytes);

  /// Maps memory that another process made.
  /// Throws: `std::system_error` when it is not exactly `bytes` long.
  [[nodiscard]] static std::shared_ptr<SharedMemory> map(FileDescriptor descriptor,
                                                         std::size_t bytes);

  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_.get(); }
  /// Pays for this process's page table now instead of with a fault for each page at first use.
  /// Only a hint; pages count as resident in this process from then on.
  void populate() noexcept;
  /// For when every process has mapped the memory.
  void close_descriptor() noexcept { descriptor_.reset(); }

 private:
  SharedMemory(FileDescriptor descriptor, std::size_t bytes);

  FileDescriptor descriptor_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  OwningProcess owner_;
};

}  // namespace lockstep::native
