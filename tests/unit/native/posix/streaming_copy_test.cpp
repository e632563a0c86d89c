// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/streaming_copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::native {
namespace {

constexpr std::size_t kGuard = 128;

std::vector<std::uint8_t> some_bytes(std::size_t count) {
  std::vector<std::uint8_t> bytes(count);
  std::uint32_t state = 1;
  for (auto& byte : bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::uint8_t>(state >> 24U);
  }
  return bytes;
}

/// `shift`: the target begins so far behind the start of a cache line. The source begins twice as
/// far behind the start of its memory.
void expect_copy(std::size_t bytes, std::size_t shift) {
  const auto source = some_bytes(bytes + 2 * shift + 64);
  std::vector<std::uint8_t> target(bytes + 2 * kGuard + shift, 0xAB);
  const auto line = reinterpret_cast<std::uintptr_t>(target.data()) % 64;
  std::uint8_t* const to = target.data() + kGuard - line + shift;
  const std::uint8_t* const from = source.data() + 2 * shift;
  streaming_copy(to, from, bytes);
  const auto is_guard = [](std::uint8_t byte) { return byte == 0xAB; };
  EXPECT_TRUE(std::equal(from, from + bytes, to)) << bytes << " bytes, shift " << shift;
  EXPECT_TRUE(std::all_of(target.data(), to, is_guard)) << bytes << " bytes, shift " << shift;
  EXPECT_TRUE(std::all_of(to + bytes, target.data() + target.size(), is_guard))
      << bytes << " bytes, shift " << shift;
}

TEST(StreamingCopy, CopiesAllBytesAndNoOthers) {
  const std::vector<std::size_t> sizes{0,     1,          4096,          65535,          65536,
                                       65537, 65536 + 63, 5 * 16384 - 1, 5 * 16384 + 64, 1'000'003};
  const std::vector<std::size_t> shifts{0, 1, 15, 16, 63};
  for (const auto shift : shifts) {
    for (const auto bytes : sizes) expect_copy(bytes, shift);
  }
}

TEST(StreamingCopy, NothingHasNoAddress) {
  streaming_copy(nullptr, nullptr, 0);  // the sanitizer tells
}

}  // namespace
}  // namespace lockstep::native
