// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// What a `DistributedDataParallel` has done so far, on this rank. Times are the host's: for work
/// on a GPU they tell when it was enqueued. In a world of one, buckets and communication are empty.
///
/// Units: seconds, bytes, and counts.
/// Thread-safety: a value.
struct DistributedDataParallelStatistics {
  /// A duration in seconds, with fractions.
  using Seconds = std::chrono::duration<double>;
  /// Where the time of a step went.
  struct Times {
    Seconds forward{};        ///< of the wrapped module, all calls since the backward before
    Seconds backward{};       ///< from the first sign of it to the last gradient
    Seconds communication{};  ///< from the first bucket's start to the last one's end
    Seconds exposed{};        ///< the part of it for which backward had to wait at its end
  };

  /// The clock of all moments: `CLOCK_MONOTONIC`. Its epoch stands for what has not happened.
  using Clock = std::chrono::steady_clock;
  /// When the parts of the last step were. `Times` are the differences, but that of forward, which
  /// adds up all calls.
  struct Moments {
    Clock::time_point forward_begin{};   ///< of the last call of the wrapped module
    Clock::time_point forward_end{};     ///< of that call
    Clock::time_point backward_begin{};  ///< the first sign of the last backward that averaged
    Clock::time_point backward_end{};    ///< its last gradient
    Clock::time_point first_launch{};    ///< its first bucket's start
    Clock::time_point wait_begin{};      ///< backward waits at its end
    Clock::time_point wait_end{};        ///< all buckets of this backward are reduced
  };

  std::uint64_t steps = 0;  ///< backwards that ended with averaged gradients
  Times last;               ///< of the last backward that averaged
  Times total;              ///< of all of them
  Moments moments;          ///< of the last step

  /// Parameters whose gradients travel together.
  struct Bucket {
    std::size_t bytes = 0;                ///< of its gradients, as they travel
    std::vector<std::string> parameters;  ///< names, in the order of their places
    Clock::time_point launched{};         ///< in the last backward
    Clock::time_point reduced{};          ///< when this rank knew that the bucket was
  };
  std::vector<Bucket> buckets;  ///< in the order in which they are reduced
  std::uint64_t plan = 0;       ///< how many bucket assignments there were
  std::string plan_reason;      ///< why parameters are assigned to these buckets

  /// `ProcessGroup::describe_link` of the group.
  std::string link;

  /// Bytes of gradients that had to be copied into registered memory in the last backward, since
  /// autograd had not made them there.
  std::size_t copied_bytes = 0;

  /// Parameters that no rank used in the last backward.
  std::vector<std::string> unused_parameters;
  /// Parameters that this rank did not use in the last backward.
  std::vector<std::string> locally_unused_parameters;
  /// Parameters that got gradients after their bucket had been launched, which were reduced once
  /// more, and parameters that were frozen while a gradient waited.
  std::vector<std::string> late_parameters;
};

}  // namespace lockstep
