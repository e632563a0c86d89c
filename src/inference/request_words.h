// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "inference/latency_histogram.h"
#include "workers/pool_events.h"

/// Words that the program and the members share. They lie in shared memory, zeroed at first.
namespace lockstep::inference::detail {

/// Time that all processes of a machine see alike.
[[nodiscard]] inline std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

/// What has become of a request at one member.
enum class PartState : std::uint8_t {
  None,     ///< there is no request
  Open,     ///< to be claimed by a copy of the member
  Running,  ///< claimed
  Done,     ///< the output is written
  Failed,   ///< `PartWords` says why
  Skipped,  ///< nobody waits for it any more
};

/// A part's state, who has claimed it, and of which request it is, in one word: claiming is one
/// compare-and-swap, and a claim of an older request fails.
struct PartWord {
  std::uint64_t sequence = 0;
  std::size_t worker = 0;
  PartState state = PartState::None;

  [[nodiscard]] static constexpr PartWord of(std::uint64_t word) {
    return {word >> 16, (word >> 8) & 0xff, static_cast<PartState>(word & 0xff)};
  }
  [[nodiscard]] constexpr std::uint64_t word() const {
    return sequence << 16 | (static_cast<std::uint64_t>(worker) & 0xff) << 8 |
           static_cast<std::uint64_t>(state);
  }
  [[nodiscard]] constexpr bool is_over() const {
    return state == PartState::Done || state == PartState::Failed || state == PartState::Skipped;
  }
};

/// How a tensor lies in its memory: contiguous.
struct TensorForm {
  static constexpr std::size_t kMostDimensions = 8;

  std::int32_t dtype = 0;  // an `at::ScalarType`
  std::int32_t dimensions = 0;
  std::array<std::int64_t, kMostDimensions> sizes{};
  std::uint64_t bytes = 0;

  [[nodiscard]] bool operator==(const TensorForm&) const = default;
};

/// Why a part failed.
enum class PartFailure : std::uint32_t { Exception, Ended, Hung, GivenUp };

/// What else a member says about a request. Written by whoever has the part.
struct PartWords {
  std::atomic<std::uint32_t> ends;  // processes that ended while they had it
  PartFailure failure;
  std::int32_t wait_status;
  std::int32_t pid;
  TensorForm output;
  std::array<char, 320> text;
};

/// A request's place. What is not atomic is written before its parts are opened.
struct SlotWords {
  alignas(64) std::atomic<std::uint32_t> changes;  // futex of whoever waits for the answer
  std::atomic<std::uint32_t> waiters;
  std::atomic<std::uint32_t> is_abandoned;  // 1: nobody waits for the parts that are not over
  std::atomic<std::uint64_t> submitted;     // nanoseconds
  std::atomic<std::uint64_t> deadline;
  std::atomic<std::uint64_t> ended;  // when a member was through the last time; 0: none was yet
  // For members that look for requests that fit together, before they have claimed any.
  std::atomic<std::uint64_t> batch_key;
  std::atomic<std::uint64_t> rows;
  TensorForm input;
};

/// What a member counts.
struct MemberWords {
  static constexpr std::size_t kMostCounted = 64;

  std::atomic<std::uint64_t> answered;
  std::atomic<std::uint64_t> failed;
  LatencyHistogram latency;
  LatencyHistogram compute;
  std::array<std::atomic<std::uint64_t>, kMostCounted> batch_sizes;  // the last: so many or more
};

/// What the fork server remembers of a worker: for the pause before its next start, and for those
/// who ask why it is not there.
struct RestartWords {
  std::atomic<std::uint32_t> ends_in_a_row;
  std::atomic<std::uint64_t> ready_since;  // nanoseconds
  // What the last process said before it ended. It may be read while the next one's is written.
  std::array<std::atomic<char>, 320> text;
};

struct ChannelHeader {
  workers::PoolEventWords events;
  alignas(64) std::atomic<std::uint32_t> completions;  // futex of those who wait for room
  std::atomic<std::uint32_t> completion_waiters;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace lockstep::inference::detail
