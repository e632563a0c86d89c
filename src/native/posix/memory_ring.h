// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>

#include "native/posix/file_descriptor.h"

namespace lockstep::native {

/// Anonymous memory that a process shares with the children it forks: one memfd with a control part
/// of fixed size, and a payload whose size is learned later, by whichever process learns it first.
///
/// Memory is reserved before it is touched, so that a lack of it is an exception and not a SIGBUS.
///
/// Thread-safety: none; each process uses its own copy of the object.
/// Owns: the descriptor and this process's mappings. The memory lives as long as any process has a
/// mapping or descriptor.
class MemoryRing {
 public:
  /// Throws: `std::system_error` with the bytes wanted and the bytes free.
  explicit MemoryRing(std::size_t control_bytes);
  ~MemoryRing();
  MemoryRing(const MemoryRing&) = delete;
  MemoryRing& operator=(const MemoryRing&) = delete;

  [[nodiscard]] std::byte* control() const noexcept { return control_; }
  [[nodiscard]] std::size_t control_bytes() const noexcept { return control_bytes_; }

  /// Reserves `bytes` for the payload. One process calls it once and then tells the others.
  /// Throws: `std::system_error` as the constructor does.
  void reserve_payload(std::size_t bytes);

  /// Maps the payload into this process on the first call.
  /// Throws: `std::system_error`.
  [[nodiscard]] std::byte* payload(std::size_t bytes);

  [[nodiscard]] int descriptor() const noexcept { return memory_.get(); }
  /// Mappings stay valid; `reserve_payload` and a first `payload` are no longer possible.
  void close_descriptor() noexcept { memory_.reset(); }

 private:
  FileDescriptor memory_;
  std::byte* control_ = nullptr;
  std::size_t control_bytes_ = 0;
  std::byte* payload_ = nullptr;
  std::size_t payload_bytes_ = 0;
};

}  // namespace lockstep::native
