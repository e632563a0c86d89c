// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/ring_buffer.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "native/posix/futex.h"

namespace lockstep {

// Counters wrap around; a buffer is far smaller than half their range. What one side writes in
// every call lies on its own cache line.
struct alignas(64) RingBuffer::Header {
  std::atomic<std::uint32_t> written{0};
  alignas(64) std::atomic<std::uint32_t> read{0};
  alignas(64) std::atomic<std::uint32_t> sleepers{0};
};

std::size_t RingBuffer::bytes_needed(std::size_t capacity) {
  return sizeof(Header) + capacity;
}

RingBuffer::RingBuffer(std::byte* memory, std::size_t capacity)
    : memory_(memory), capacity_(capacity) {}

RingBuffer::Header& RingBuffer::header() const {
  // Zeroed memory is a valid start for all members.
  return *std::launder(reinterpret_cast<Header*>(memory_));
}

std::size_t RingBuffer::used() const {
  return header().written.load(std::memory_order_acquire) -
         header().read.load(std::memory_order_acquire);
}

std::size_t RingBuffer::readable() const {
  return used();
}

void RingBuffer::publish(std::atomic<std::uint32_t>& counter, std::size_t bytes) {
  const std::uint32_t value = counter.load(std::memory_order_relaxed);
  // Sequentially consistent with the sleeper's increment and second look: one of the two sees the
  // other.
  counter.store(value + static_cast<std::uint32_t>(bytes), std::memory_order_seq_cst);
  if (header().sleepers.load(std::memory_order_seq_cst) != 0) native::futex_wake_all(counter);
}

std::size_t RingBuffer::write(std::span<const std::byte> bytes) {
  const std::size_t count = std::min(bytes.size(), capacity_ - used());
  if (count == 0) return 0;
  std::byte* ring = memory_ + sizeof(Header);
  const std::size_t start = header().written.load(std::memory_order_relaxed) % capacity_;
  const std::size_t first = std::min(count, capacity_ - start);
  std::memcpy(ring + start, bytes.data(), first);
  if (count > first) std::memcpy(ring, bytes.data() + first, count - first);
  publish(header().written, count);
  return count;
}

std::size_t RingBuffer::read(std::span<std::byte> bytes) {
  const std::size_t count = std::min(bytes.size(), used());
  if (count == 0) return 0;
  const std::byte* ring = memory_ + sizeof(Header);
  const std::size_t start = header().read.load(std::memory_order_relaxed) % capacity_;
  const std::size_t first = std::min(count, capacity_ - start);
  std::memcpy(bytes.data(), ring + start, first);
  if (count > first) std::memcpy(bytes.data() + first, ring, count - first);
  publish(header().read, count);
  return count;
}

void RingBuffer::sleep_on(std::atomic<std::uint32_t>& counter, std::uint32_t seen,
                          std::chrono::nanoseconds limit) {
  header().sleepers.fetch_add(1, std::memory_order_seq_cst);
  if (counter.load(std::memory_order_seq_cst) == seen) native::futex_wait(counter, seen, limit);
  header().sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void RingBuffer::sleep_until_readable(std::size_t bytes, std::chrono::nanoseconds limit) {
  const std::uint32_t seen = header().written.load(std::memory_order_acquire);
  const std::uint32_t read = header().read.load(std::memory_order_relaxed);
  if (seen - read < bytes) sleep_on(header().written, seen, limit);
}

void RingBuffer::sleep_until_writable(std::chrono::nanoseconds limit) {
  const std::uint32_t seen = header().read.load(std::memory_order_acquire);
  const std::uint32_t written = header().written.load(std::memory_order_relaxed);
  if (written - seen == capacity_) sleep_on(header().read, seen, limit);
}

}  // namespace lockstep
