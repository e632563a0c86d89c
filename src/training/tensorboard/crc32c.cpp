// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace lockstep::training {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78U;  // with its bits reversed

using CrcTables = std::array<std::array<std::uint32_t, 256>, 8>;

/// Table k has the checksum of a byte with k zero bytes behind it.
constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? kPolynomial : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFFU];
    }
  }
  return tables;
}

constexpr CrcTables kCrcTables = make_crc_tables();

std::uint64_t eight_bytes(const std::byte* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc_by_instruction(
    std::span<const std::byte> bytes) noexcept {
  std::uint64_t crc = 0xFFFFFFFFU;
  while (bytes.size() >= 8) {
    crc = _mm_crc32_u64(crc, eight_bytes(bytes.data()));
    bytes = bytes.subspan(8);
  }
  auto rest = static_cast<std::uint32_t>(crc);
  for (const std::byte byte : bytes)
    rest = _mm_crc32_u8(rest, std::to_integer<unsigned char>(byte));
  return ~rest;
}

bool has_crc_instruction() noexcept {
  return __builtin_cpu_supports("sse4.2") != 0;
}
#elif defined(__ARM_FEATURE_CRC32)
std::uint32_t crc_by_instruction(std::span<const std::byte> bytes) noexcept {
  std::uint32_t crc = 0xFFFFFFFFU;
  while (bytes.size() >= 8) {
    crc = __crc32cd(crc, eight_bytes(bytes.data()));
    bytes = bytes.subspan(8);
  }
  for (const std::byte byte : bytes) crc = __crc32cb(crc, std::to_integer<std::uint8_t>(byte));
  return ~crc;
}

constexpr bool has_crc_instruction() noexcept {
  return true;
}
#else
std::uint32_t crc_by_instruction(std::span<const std::byte> bytes) noexcept {
  return crc32c_by_tables(bytes);
}

constexpr bool has_crc_instruction() noexcept {
  return false;
}
#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes) noexcept {
  return has_crc_instruction() ? crc_by_instruction(bytes) : crc32c_by_tables(bytes);
}

std::uint32_t crc32c_by_tables(std::span<const std::byte> bytes) noexcept {
  std::uint32_t crc = 0xFFFFFFFFU;
  while (std::endian::native == std::endian::little && bytes.size() >= 8) {
    const std::uint64_t word = eight_bytes(bytes.data()) ^ crc;
    crc = 0;
    for (std::size_t i = 0; i < 8; ++i) crc ^= kCrcTables[7 - i][word >> (8 * i) & 0xFFU];
    bytes = bytes.subspan(8);
  }
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ kCrcTables[0][(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xFFU];
  }
  return ~crc;
}

}  // namespace lockstep::training
