// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// Anonymous memory that a process shares with the children it forks: one memfd with a control part
/// of fixed size, a payload whose size is learned later, by whichever process learns it first, and
/// behind it pieces for what does not fit into the payload.
///
/// Memory is reserved before it is touched, so that a lack of it is an exception and not a SIGBUS.
///
/// Thread-safety: `payload`, `reserve_payload` and the pieces may be used by several threads at a
/// time; each process uses its own copy of the object. Owns: the descriptor and this process's
/// mappings. The memory lives as long as any process has a mapping or descriptor.
class MemoryRing {
 public:
  /// Throws: `std::system_error` with the bytes wanted and the bytes free.
  explicit MemoryRing(std::size_t control_bytes);
  /// Another process's ring; the control part is as long as its first word, a `std::uint64_t`,
  /// says. Throws: `std::system_error` when that cannot be.
  explicit MemoryRing(FileDescriptor descriptor);
  ~MemoryRing();
  MemoryRing(const MemoryRing&) = delete;
  MemoryRing& operator=(const MemoryRing&) = delete;

  [[nodiscard]] std::byte* control() const noexcept { return control_; }
  [[nodiscard]] std::size_t control_bytes() const noexcept { return control_bytes_; }

  /// Reserves `bytes` for the payload. One process calls it once and then tells the others.
  /// Throws: `std::system_error` as the constructor does.
  void reserve_payload(std::size_t bytes);

  /// As `reserve_payload`, for a payload whose memory is taken part by part: checks that there is
  /// memory for all of it, and takes none.
  void announce_payload(std::size_t bytes);
  /// Takes memory for a part of the payload that this process has mapped, and maps every page of
  /// it here, so that nothing in it costs a fault any more. Several processes may do so with the
  /// same part. `offset` and `bytes` are multiples of the page size.
  /// Throws: `std::system_error` as the constructor does.
  void reserve_part(std::size_t offset, std::size_t bytes);

  /// Maps the payload into this process on the first call.
  /// Throws: `std::system_error`.
  [[nodiscard]] std::byte* payload(std::size_t bytes);

  /// Reserves a piece at `offset`, which nobody else has and which is a multiple of the page size,
  /// counted from the end of a payload of `payload_bytes`.
  /// Throws: `std::system_error` as the constructor does.
  void reserve_piece(std::size_t payload_bytes, std::size_t offset, std::size_t bytes);
  [[nodiscard]] std::byte* map_piece(std::size_t payload_bytes, std::size_t offset,
                                     std::size_t bytes);
  /// Unmaps it, where it was mapped.
  static void unmap_piece(std::byte* piece, std::size_t bytes) noexcept;
  /// Unmaps it and gives its memory back to the system, also after `close_descriptor`.
  static void drop_piece(std::byte* piece, std::size_t bytes) noexcept;
  /// Gives the memory of a piece that is not mapped here back to the system.
  void free_piece(std::size_t payload_bytes, std::size_t offset, std::size_t bytes) noexcept;

  [[nodiscard]] static std::size_t round_up_to_page(std::size_t bytes);

  [[nodiscard]] int descriptor() const noexcept { return memory_.get(); }
  /// Mappings stay valid; nothing more can be reserved, or mapped for the first time.
  void close_descriptor() noexcept { memory_.reset(); }

 private:
  FileDescriptor memory_;
  std::byte* control_ = nullptr;
  std::size_t control_bytes_ = 0;
  std::atomic<std::byte*> payload_{nullptr};
  std::size_t payload_bytes_ = 0;
};

}  // namespace lockstep::native
