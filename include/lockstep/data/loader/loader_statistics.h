// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstdint>
#include <string>

namespace lockstep::data {

/// What a loader has done since it was built.
///
/// Units: seconds, bytes, and counts.
/// Thread-safety: a value.
struct LOCKSTEP_API LoaderStatistics {
  double seconds = 0;              ///< in passes, from `begin()` to the last batch that was taken
  double stall_seconds = 0;        ///< of these, the program waited for a batch
  std::uint64_t batches = 0;       ///< that the program has taken
  std::uint64_t samples = 0;       ///< in these batches
  std::uint64_t lost_batches = 0;  ///< that ended in a `WorkerError`
  std::uint64_t skipped_samples = 0;   ///< left out, by `on_failed_sample` or `on_poison_sample`
  std::uint64_t replaced_samples = 0;  ///< by another, likewise
  std::uint64_t copies = 0;    ///< batches that were copied: the program kept too many, or samples
                               ///< were left out
  std::uint64_t oversize = 0;  ///< batches that did not fit their slot and got memory of their own
  std::uint64_t restarts = 0;  ///< workers that were replaced
  double ready_depth = 0;      ///< batches that were ready when one was asked for, on average
  double busy_seconds = 0;     ///< of all workers together, getting samples
  double compute_seconds = 0;  ///< of these, computing
  double delayed_seconds = 0;  ///< of these, ready to compute but without a core
  double idle_seconds = 0;     ///< of all workers together, without anything to do

  // Of all workers together, where the dataset has `files_of`. A file is a part that it names.
  std::uint64_t files_read_ahead = 0;   ///< that came from the disk into the page cache
  std::uint64_t bytes_read_ahead = 0;   ///< in these
  std::uint64_t files_in_cache = 0;     ///< that were looked at, and in the page cache already
  std::uint64_t read_ahead_errors = 0;  ///< files that could not be read ahead, and calls of
                                        ///< `files_of` that threw

  // Of all workers together, where the dataset has `get_async`.
  std::uint64_t async_begun = 0;     ///< calls of `get_async`
  std::uint64_t async_ready = 0;     ///< samples that were there when they were wanted
  std::uint64_t async_unwanted = 0;  ///< samples that were begun and let go: a pass was broken off,
                                     ///< a batch had failed, or `timeout` was over
  std::uint64_t async_under_way = 0;  ///< samples that are begun now and not taken; one that was
                                      ///< let go counts until it is there
  double async_depth = 0;  ///< samples under way in a worker when it wanted one, on average

  /// The part of `seconds` in which the program waited, from 0 to 1.
  [[nodiscard]] double stall_share() const { return seconds > 0 ? stall_seconds / seconds : 0; }
  /// Samples by `seconds`, the program's own time included.
  [[nodiscard]] double samples_per_second() const {
    return seconds > 0 ? static_cast<double>(samples) / seconds : 0;
  }
  /// One sentence: who holds up the training - consumer, storage, decode, or transport - why, and
  /// what helps.
  [[nodiscard]] std::string bottleneck() const;
};

}  // namespace lockstep::data
