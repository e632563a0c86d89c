// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/line_ring.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace lockstep::training {

// In front of each line. A line lies in one piece: where it does not fit before the end of the
// memory, a head without a channel fills the rest.
struct LineRing::Head {
  LineChannel* channel;
  std::int64_t nanoseconds;
  std::uint32_t bytes;
  logging::Level level;
};

namespace {

constexpr std::size_t kStep = 32;  // each head begins at a multiple of it

constexpr std::size_t room_of(std::size_t text_bytes) {
  return (kStep + text_bytes + kStep - 1) / kStep * kStep;
}

constexpr std::string_view kCut = " [the rest of this line did not fit the queue]\n";

}  // namespace

LineRing::LineRing(std::size_t bytes)
    : capacity_((bytes + kStep - 1) / kStep * kStep), bytes_(new std::byte[capacity_]) {
  static_assert(sizeof(Head) <= kStep);
}

bool LineRing::push(const QueuedLine& line) {
  // So that two of them fit.
  const std::size_t most = capacity_ / 2 - 2 * kStep;
  if (line.text.size() > most) {
    std::string cut(line.text.substr(0, most - kCut.size()));
    cut += kCut;
    QueuedLine shorter = line;
    shorter.text = cut;
    return push(shorter);
  }
  const std::size_t room = room_of(line.text.size());
  const std::lock_guard lock(mutex_);
  std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  const std::size_t before_end = capacity_ - tail % capacity_;
  const std::size_t skipped = room <= before_end ? 0 : before_end;
  const auto taken = static_cast<std::size_t>(tail - head_.load(std::memory_order_acquire));
  if (capacity_ - taken < room + skipped) return false;
  if (skipped > 0) {
    const Head filler{};
    std::memcpy(bytes_.get() + tail % capacity_, &filler, sizeof(filler));
    tail += skipped;
  }
  std::byte* place = bytes_.get() + tail % capacity_;
  const Head head{line.channel, line.nanoseconds, static_cast<std::uint32_t>(line.text.size()),
                  line.level};
  std::memcpy(place, &head, sizeof(head));
  std::copy_n(line.text.data(), line.text.size(), reinterpret_cast<char*>(place + kStep));
  tail_.store(tail + room, std::memory_order_release);
  return true;
}

void LineRing::with_position(const std::function<void(std::uint64_t)>& action) {
  const std::lock_guard lock(mutex_);
  action(tail_.load(std::memory_order_relaxed));
}

void LineRing::drain(std::uint64_t end,
                     const std::function<void(const QueuedLine&, std::uint64_t position)>& take) {
  std::uint64_t position = head_.load(std::memory_order_relaxed);
  while (position < end) {
    const std::byte* place = bytes_.get() + position % capacity_;
    Head head{};
    std::memcpy(&head, place, sizeof(head));
    std::size_t room = capacity_ - position % capacity_;
    if (head.channel != nullptr) {
      room = room_of(head.bytes);
      take({head.channel,
            head.nanoseconds,
            head.level,
            {reinterpret_cast<const char*>(place + kStep), head.bytes}},
           position);
    }
    position += room;
    head_.store(position, std::memory_order_release);
  }
}

}  // namespace lockstep::training
