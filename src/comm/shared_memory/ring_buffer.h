// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep {

/// A stream of bytes from one rank to another through a ring buffer in shared memory.
///
/// It has two counters that only grow, each with one writer: nothing can be lost, and no lock can
/// be left behind. Holds no torch. Thread-safety: one writing and one reading thread, of any
/// processes. Source: boost::lockfree::spsc_queue.
class RingBuffer {
 public:
  /// Shared memory that one buffer of `capacity` bytes needs. `capacity`: a power of two, so that
  /// counters that wrap around keep their place in the buffer, and 64 or more.
  [[nodiscard]] static std::size_t bytes_needed(std::size_t capacity);

  /// `memory` is zeroed, aligned to 64, and outlives this object.
  RingBuffer(std::byte* memory, std::size_t capacity);

  /// Writes as much as there is room for; returns how much that was.
  std::size_t write(std::span<const std::byte> bytes);
  /// Reads as much as there is, or as fits; returns how much that was.
  std::size_t read(std::span<std::byte> bytes);
  [[nodiscard]] std::size_t readable() const;

  /// Sleep until the other side moves, for at most `limit`. May return early.
  void sleep_until_readable(std::size_t bytes, std::chrono::nanoseconds limit);
  void sleep_until_writable(std::chrono::nanoseconds limit);

 private:
  struct Header;

  [[nodiscard]] Header& header() const;
  [[nodiscard]] std::size_t used() const;
  void publish(std::atomic<std::uint32_t>& counter, std::size_t bytes);
  void sleep_on(std::atomic<std::uint32_t>& counter, std::uint32_t seen,
                std::chrono::nanoseconds limit);

  std::byte* memory_;
  std::size_t capacity_;
};

}  // namespace lockstep
