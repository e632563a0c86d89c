// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/loader_statistics.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::data::detail {

/// What one worker has looked ahead, for `LoaderStatistics`. Where workers share memory with the
/// rank, it lies there, zeroed at first. A worker that replaces another one counts on.
///
/// Units: counts, and bytes.
/// Thread-safety: the worker writes, any process reads.
struct alignas(64) LookAheadCounts {
  using Word = std::atomic<std::uint64_t>;

  // Of `ReadAhead`.
  Word files_read;
  Word bytes_read;
  Word files_in_cache;
  Word errors;
  // Of `PendingSamples`.
  Word begun;
  Word ready;
  Word unwanted;
  Word under_way;      // now
  Word wanted;         // samples that were asked for
  Word under_way_sum;  // at these moments

  static void add(Word& word, std::uint64_t count) noexcept {
    word.store(word.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
};

static_assert(LookAheadCounts::Word::is_always_lock_free);

/// The sum over workers.
inline void add_counts(std::span<const LookAheadCounts> workers, LoaderStatistics& statistics) {
  const auto sum_of = [workers](LookAheadCounts::Word LookAheadCounts::*word) {
    std::uint64_t sum = 0;
    for (const auto& counts : workers) sum += (counts.*word).load(std::memory_order_relaxed);
    return sum;
  };
  statistics.files_read_ahead += sum_of(&LookAheadCounts::files_read);
  statistics.bytes_read_ahead += sum_of(&LookAheadCounts::bytes_read);
  statistics.files_in_cache += sum_of(&LookAheadCounts::files_in_cache);
  statistics.read_ahead_errors += sum_of(&LookAheadCounts::errors);
  statistics.async_begun += sum_of(&LookAheadCounts::begun);
  statistics.async_ready += sum_of(&LookAheadCounts::ready);
  statistics.async_unwanted += sum_of(&LookAheadCounts::unwanted);
  statistics.async_under_way += sum_of(&LookAheadCounts::under_way);
  const auto wanted = sum_of(&LookAheadCounts::wanted);
  if (wanted == 0) return;
  statistics.async_depth =
      static_cast<double>(sum_of(&LookAheadCounts::under_way_sum)) / static_cast<double>(wanted);
}

}  // namespace lockstep::data::detail
