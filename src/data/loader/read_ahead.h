// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/file_parts.h>
#include <lockstep/data/loader/detail/loader_input.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>

#include "data/loader/look_ahead_counts.h"
#include "data/loader/upcoming.h"
#include "native/posix/read_pool.h"

namespace lockstep::data::detail {

/// Whether it is worthwhile to read ahead. At first, one sample is looked at: where something has
/// to be read from the disk, all are read ahead, until so many in a row were in the page cache.
/// Then one is looked at now and then, more and more rarely, whether that is still so.
class ReadAheadPace {
 public:
  static constexpr std::size_t kCachedInARow = 32;
  static constexpr std::size_t kRarest = 64;

  /// Whether it is time, for one call of so many.
  [[nodiscard]] bool is_due() noexcept { return is_full_ || ++calls_ % interval_ == 0; }
  /// Whether all is read ahead; otherwise one sample is looked at.
  [[nodiscard]] bool is_full() const noexcept { return is_full_; }
  /// What became of a sample that was read ahead or looked at.
  void saw(bool was_cached) noexcept;

 private:
  bool is_full_ = false;
  std::size_t cached_ = 0;  // in a row, while all is read ahead
  std::size_t calls_ = 0;
  std::size_t interval_ = 1;
};

/// Has the files of samples that come next read into the page cache, by threads. It holds no
/// bytes: whatever becomes of a file, the dataset finds it as it is. Where the cache is too small,
/// or the files are not to be had, samples take as long as without.
///
/// Runs in the process that fetches the samples, and made there. Thread-safety: none.
/// Owns: the threads.
class ReadAhead {
 public:
  /// Of one process; a disk of a virtual machine and a network's storage have more to give, a
  /// spinning one has less.
  static constexpr std::size_t kThreads = 8;

  /// Tells what comes: the samples number `skip` to `most` of those that follow.
  using Tell = std::function<void(std::size_t skip, std::size_t most, const UseUpcoming& use)>;

  /// `counts` outlives it.
  ReadAhead(const SampleSource& source, std::size_t samples, LookAheadCounts& counts)
      : files_(source.files), samples_(samples), counts_(counts) {}

  /// Whether there is something to do; to be asked once before each `look`, and cheap.
  [[nodiscard]] bool is_due() noexcept {
    is_time_ = pace_.is_due() && (pace_.is_full() || has_paused());
    return !is_off_ && (is_time_ || !reading_.empty());
  }
  /// The samples from `now` on are fetched next.
  void look(std::uint64_t now, const Tell& tell);

 private:
  // A sample whose parts are being read.
  struct Reading {
    std::uint64_t place = 0;
    std::size_t parts = 0;
    std::uint64_t bytes = 0;
    bool was_cached = true;
    bool has_failed = false;
  };

  [[nodiscard]] bool has_paused() noexcept;
  void take_results(std::uint64_t now);
  void count_result(const native::ReadResult& result);
  [[nodiscard]] std::size_t name_files(std::int64_t index);
  void look_at_one(std::size_t most, const Tell& tell);
  [[nodiscard]] std::optional<bool> are_cached(std::size_t count) const;
  [[nodiscard]] bool begin(std::int64_t index, std::uint64_t place);
  [[nodiscard]] bool submit(std::size_t count, std::uint64_t place);
  [[nodiscard]] std::size_t limit() const;

  std::function<void(std::size_t, FileParts&)> files_;
  std::size_t samples_;
  LookAheadCounts& counts_;
  ReadAheadPace pace_;
  std::unique_ptr<native::ReadPool> pool_;
  FileParts parts_;
  std::unordered_map<std::uint64_t, Reading> reading_;  // by the tag of their requests
  std::uint64_t next_tag_ = 0;
  // Bytes of a sample that was not in the cache, the largest of late; 0: none so far.
  std::uint64_t largest_ = 0;
  bool is_time_ = false;
  // At one sample, to find out.
  std::optional<std::chrono::steady_clock::time_point> last_look_;
  bool is_off_ = false;  // there are no threads to be had
};

}  // namespace lockstep::data::detail
