// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/logging.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

namespace lockstep::training {

class LineChannel;

/// A line on its way to the thread.
struct QueuedLine {
  LineChannel* channel = nullptr;
  std::int64_t nanoseconds = 0;  ///< since 1970
  logging::Level level = logging::Level::Info;
  std::string_view text;
};

/// A bounded queue of lines, of many callers to one thread. The thread takes no lock: it has a low
/// priority, and callers must not wait until the system lets it run.
///
/// Thread-safety: any thread calls `push`, `position` and `with_position`; one thread calls
/// `drain`.
class LineRing {
 public:
  explicit LineRing(std::size_t bytes);

  /// False: there is no room. A line that never fits is cut, and says so.
  [[nodiscard]] bool push(const QueuedLine& line);

  /// Of the next line. Grows with each line.
  [[nodiscard]] std::uint64_t position() const noexcept { return tail_.load(); }
  /// Calls `action` with the position of the next line; no line comes meanwhile.
  void with_position(const std::function<void(std::uint64_t)>& action);

  /// Gives the lines before `end` to `take`, with the position of each, and makes room.
  void drain(std::uint64_t end,
             const std::function<void(const QueuedLine&, std::uint64_t position)>& take);

  /// Whether more than half of it is taken.
  [[nodiscard]] bool is_half_full() const noexcept {
    return tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_relaxed) >
           capacity_ / 2;
  }

 private:
  struct Head;

  const std::size_t capacity_;
  const std::unique_ptr<std::byte[]> bytes_;
  std::mutex mutex_;                    // of those who push
  std::atomic<std::uint64_t> tail_{0};  // positions: the place is the rest after capacity_
  std::atomic<std::uint64_t> head_{0};
};

}  // namespace lockstep::training
