// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "native/posix/file_descriptor.h"
#include "native/posix/mapped_block.h"

namespace lockstep::native {

/// Anonymous memory that a process shares with the children it forks: one memfd with a control part
/// of fixed size, and behind it blocks, each at an offset (from the end of the control part) that
/// its owners agree on and nobody else has. One block, the payload, stays mapped once it is.
///
/// Memory is reserved before it is touched, so that a lack of it is an exception and not a SIGBUS.
///
/// Thread-safety: the payload and the blocks may be used by several threads at a time; each process
/// uses its own copy of the object. Owns: the descriptor and this process's mappings. The memory
/// lives as long as any process has a mapping or descriptor.
class SharedMemoryRegion {
 public:
  /// Throws: `std::system_error` with the bytes wanted and the bytes free.
  explicit SharedMemoryRegion(std::size_t control_bytes);
  /// Another process's region; the control part is as long as its first word, a `std::uint64_t`,
  /// says. Throws: `std::system_error` when that cannot be.
  explicit SharedMemoryRegion(FileDescriptor descriptor);
  ~SharedMemoryRegion();
  SharedMemoryRegion(const SharedMemoryRegion&) = delete;
  SharedMemoryRegion& operator=(const SharedMemoryRegion&) = delete;

  [[nodiscard]] std::byte* control() const noexcept { return control_; }
  [[nodiscard]] std::size_t control_bytes() const noexcept { return control_bytes_; }

  // Offsets, and bytes where they are reserved, are multiples of the page size.

  /// Takes memory for a block. Looks at the memory that is left once for many small blocks.
  /// Throws: `std::system_error` as the constructor does.
  void reserve(std::size_t offset, std::size_t bytes);
  /// Throws: `std::system_error`.
  [[nodiscard]] MappedBlock map(std::size_t offset, std::size_t bytes);
  /// Gives the memory of a block back to the system.
  void free(std::size_t offset, std::size_t bytes) noexcept;

  /// Makes room for a payload whose memory is taken part by part: checks that there is memory for
  /// all of it, and takes none.
  /// Throws: `std::system_error` as the constructor does.
  void announce_payload(std::size_t offset, std::size_t bytes);
  /// Maps the payload into this process on the first call.
  /// Throws: `std::system_error`.
  [[nodiscard]] std::byte* payload(std::size_t offset, std::size_t bytes);
  /// Takes memory for a part of the payload that this process has mapped, and maps every page of
  /// it here, so that nothing in it costs a fault any more. Several processes may do so with the
  /// same part. `offset` counts from the start of the payload.
  /// Throws: `std::system_error` as the constructor does.
  void reserve_part(std::size_t offset, std::size_t bytes);

  [[nodiscard]] int descriptor() const noexcept { return memory_.get(); }
  /// Mappings stay valid; nothing more can be reserved, or mapped for the first time.
  void close_descriptor() noexcept { memory_.reset(); }

 private:
  void look_before_small(std::size_t bytes);

  FileDescriptor memory_;
  std::byte* control_ = nullptr;
  std::size_t control_bytes_ = 0;
  std::atomic<std::byte*> payload_{nullptr};
  std::atomic<std::size_t> payload_offset_{0};
  std::size_t payload_bytes_ = 0;
  std::atomic<std::size_t> seen_free_{0};  // may be taken before the next look
};

}  // namespace lockstep::native
