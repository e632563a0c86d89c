// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// @file
/// What an `Ensemble` has counted since it was built.
///
/// Thread-safety: values.

namespace lockstep::inference {

/// How long something took. The quantiles come from a histogram of fixed buckets, and are at most a
/// sixteenth too large.
struct Latency {
  std::uint64_t count = 0;          ///< so often
  std::chrono::nanoseconds p50{};   ///< half of them took at most this
  std::chrono::nanoseconds p99{};   ///< 99 of 100
  std::chrono::nanoseconds p999{};  ///< 999 of 1000
};

/// Of a member, with all its copies.
struct MemberStatistics {
  std::string name;               ///< the member's
  std::int64_t copies = 0;        ///< as asked for
  std::int64_t ready_copies = 0;  ///< of these, able to answer now
  std::vector<int> pids;          ///< of the copies, also of one that has just ended; this process
                                  ///< where they are threads
  Latency latency;                ///< from `submit` to this member's answer
  Latency compute;                ///< a call of the model; on a GPU, what it takes to launch it
  std::uint64_t answered = 0;     ///< requests with an output of this member
  std::uint64_t failed = 0;       ///< requests at which it threw, or that it refused as poison
  std::uint64_t missing = 0;      ///< answers and errors that named it missing
  std::uint64_t restarts = 0;     ///< processes started after the first ones
  std::uint64_t queue = 0;        ///< requests that it has not begun with
  std::vector<std::uint64_t> batch_sizes;  ///< calls with so many requests, the first for 1
};

/// Of an ensemble.
struct EnsembleStatistics {
  Latency latency;                        ///< from `submit` until the last member was through that
                                          ///< was waited for, whenever the answer was taken
  std::uint64_t submitted = 0;            ///< requests that were taken
  std::uint64_t answered = 0;             ///< by as many members as the quorum
  std::uint64_t failed = 0;               ///< with an error
  std::uint64_t cancelled = 0;            ///< taken back
  std::uint64_t refused = 0;              ///< by `QueueFull`; not part of `submitted`
  std::size_t in_flight = 0;              ///< places of the queue that are taken
  std::vector<MemberStatistics> members;  ///< in their order
};

}  // namespace lockstep::inference
