// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::training {

/// CRC-32C (Castagnoli), by the instruction of the CPU where it has one.
///
/// Thread-safety: any thread.
/// Source: RFC 3720, appendix B.4, has values to check it with.
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes) noexcept;

/// The same by tables alone, which every CPU can do.
[[nodiscard]] std::uint32_t crc32c_by_tables(std::span<const std::byte> bytes) noexcept;

/// As records of event files have it: the checksum of bytes that contain checksums says little.
[[nodiscard]] inline std::uint32_t masked_crc32c(std::span<const std::byte> bytes) noexcept {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

}  // namespace lockstep::training
