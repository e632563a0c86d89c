// SPDX-License-Identifier: BSD-3-Clause
// The stream between two ranks without torch: ThreadSanitizer sees every access.
#include "comm/shared_memory/ring_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace lockstep {
namespace {

using std::chrono::milliseconds;

/// Zeroed memory for one buffer.
class Memory {
 public:
  explicit Memory(std::size_t capacity)
      : lines_(RingBuffer::bytes_needed(capacity) / sizeof(Line)) {}
  [[nodiscard]] std::byte* data() { return lines_.front().bytes; }
  /// As if this many bytes had passed: the two counters are the first words of the first two lines.
  void start_at(std::uint32_t passed) {
    for (int line : {0, 1}) {
      std::memcpy(lines_[static_cast<std::size_t>(line)].bytes, &passed, sizeof(passed));
    }
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64]{};
  };
  std::vector<Line> lines_;
};

std::byte byte_at(std::size_t place) {
  return static_cast<std::byte>(place * 131 + place / 251);
}

TEST(RingBuffer, IsFullAtItsCapacityAndEmptyAtTheStart) {
  Memory memory(256);
  RingBuffer writer(memory.data(), 256);
  RingBuffer reader(memory.data(), 256);
  std::vector<std::byte> bytes(300, std::byte{7});
  EXPECT_EQ(reader.readable(), 0U);
  EXPECT_EQ(reader.read(bytes), 0U);
  EXPECT_EQ(writer.write(bytes), 256U);
  EXPECT_EQ(writer.write(bytes), 0U);
  EXPECT_EQ(reader.readable(), 256U);
  EXPECT_EQ(reader.read(std::span(bytes).first(100)), 100U);
  EXPECT_EQ(writer.write(bytes), 100U);
  EXPECT_EQ(reader.readable(), 256U);
}

TEST(RingBuffer, KeepsEveryByteInOrderBetweenTwoThreads) {
  constexpr std::size_t kBytes = 1'000'000;
  Memory memory(256);
  memory.start_at(0xFFFF0000);  // the counters wrap around soon
  const auto pieces = [](unsigned seed, const auto& transfer) {
    std::minstd_rand random(seed);
    for (std::size_t done = 0; done < kBytes;) {
      done += transfer(done, std::min<std::size_t>(1 + random() % 500, kBytes - done));
    }
  };
  std::jthread writing([&] {
    RingBuffer buffer(memory.data(), 256);
    pieces(1, [&](std::size_t done, std::size_t count) {
      std::vector<std::byte> bytes(count);
      for (std::size_t i = 0; i < count; ++i) bytes[i] = byte_at(done + i);
      const std::size_t written = buffer.write(bytes);
      if (written == 0) buffer.sleep_until_writable(milliseconds(100));
      return written;
    });
  });
  RingBuffer buffer(memory.data(), 256);
  std::size_t wrong = 0;
  pieces(2, [&](std::size_t done, std::size_t count) {
    std::vector<std::byte> bytes(count);
    const std::size_t read = buffer.read(bytes);
    for (std::size_t i = 0; i < read; ++i) wrong += bytes[i] != byte_at(done + i);
    if (read == 0) buffer.sleep_until_readable(1, milliseconds(100));
    return read;
  });
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace lockstep
