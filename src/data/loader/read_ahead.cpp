// SPDX-License-Identifier: BSD-3-Clause
// Beside step 5 of a sample's path: the files of samples that come next are read into the page
// cache, so that step 6 finds them there.
#include "data/loader/read_ahead.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "native/posix/page_cache.h"

namespace lockstep::data::detail {
namespace {

// What lies in the cache and is not used yet, of all workers together.
constexpr std::uint64_t kMostAhead = std::uint64_t{256} << 20;
// A sample is of at most so many files; of one with more, the others are read when they are asked
// for.
constexpr std::size_t kMostParts = 64;
// Between two samples that are looked at while all are cached.
constexpr std::chrono::milliseconds kPause{20};
// The largest of so many samples, about, says how far to look: one large sample is no rule.
constexpr std::uint64_t kForgets = 16;
constexpr std::size_t kMostRequests = 2 * kMostParts;

}  // namespace

void ReadAheadPace::saw(bool was_cached) noexcept {
  if (!was_cached) {
    is_full_ = true;
    cached_ = 0;
  } else if (!is_full_) {
    interval_ = std::min(2 * interval_, kRarest);
  } else if (++cached_ == kCachedInARow) {
    is_full_ = false;
    interval_ = 1;
  }
}

// Where samples take a few microseconds, one of 64 is too many.
bool ReadAhead::has_paused() noexcept {
  return !last_look_ || std::chrono::steady_clock::now() - *last_look_ >= kPause;
}

void ReadAhead::look(std::uint64_t now, const Tell& tell) {
  if (!reading_.empty()) take_results(now);
  if (!is_time_) return;
  const auto most = limit();
  if (!pace_.is_full()) look_at_one(most, tell);
  if (!pace_.is_full()) return;
  tell(0, most, [this](std::int64_t index, std::uint64_t place) { return begin(index, place); });
}

// In this thread, so that a process whose files are cached gets no others: with them, all of its
// calls of malloc and its reference counts would cost more. The first is what comes next, others
// are from the middle: what is near would be asked for before it could be read.
void ReadAhead::look_at_one(std::size_t most, const Tell& tell) {
  bool is_first = true;
  tell(last_look_ ? most / 2 : 0, most, [&](std::int64_t index, std::uint64_t place) {
    if (!std::exchange(is_first, false)) return false;
    const auto count = name_files(index);
    if (count == 0) return true;
    const auto known = are_cached(count);
    if (known) pace_.saw(*known);
    if (known && *known) LookAheadCounts::add(counts_.files_in_cache, count);
    return (known && *known) || submit(count, place);  // the thread finds out how long it takes
  });
  last_look_ = std::chrono::steady_clock::now();
}

// Nothing where a file system does not tell.
std::optional<bool> ReadAhead::are_cached(std::size_t count) const {
  std::optional<bool> all = true;
  for (std::size_t at = 0; at < count; ++at) {
    const auto& part = parts_.parts()[at];
    const auto known = native::is_cached(part.path, part.offset, part.bytes);
    if (known && !*known) return false;
    if (!known) all.reset();
  }
  return all;
}

void ReadAhead::take_results(std::uint64_t now) {
  const auto at_once = Deadline::after(std::chrono::nanoseconds::zero());
  while (const auto result = pool_->reap(at_once)) {
    const auto found = reading_.find(result->tag);
    auto& sample = found->second;
    sample.was_cached = sample.was_cached && result->was_cached;
    sample.has_failed = sample.has_failed || result->error != 0;
    sample.bytes += result->bytes;
    count_result(*result);
    if (--sample.parts != 0) continue;
    // Of a sample that was fetched meanwhile, nobody knows who read it.
    const bool is_late = sample.was_cached && sample.place < now;
    if (!is_late && !sample.has_failed) pace_.saw(sample.was_cached);
    if (sample.bytes != 0) largest_ = std::max(sample.bytes, largest_ - largest_ / kForgets);
    reading_.erase(found);
  }
}

void ReadAhead::count_result(const native::ReadResult& result) {
  if (result.error != 0) return LookAheadCounts::add(counts_.errors, 1);
  if (result.was_cached) return LookAheadCounts::add(counts_.files_in_cache, 1);
  LookAheadCounts::add(counts_.files_read, 1);
  LookAheadCounts::add(counts_.bytes_read, result.bytes);
}

// How many parts of files there are to read. What goes wrong here goes wrong when the sample is
// asked for, too, and is its error then.
std::size_t ReadAhead::name_files(std::int64_t index) {
  try {
    parts_.clear();
    files_(static_cast<std::size_t>(index), parts_);
  } catch (...) {
    LookAheadCounts::add(counts_.errors, 1);
    return 0;
  }
  return std::min(parts_.parts().size(), kMostParts);
}

bool ReadAhead::begin(std::int64_t index, std::uint64_t place) {
  const auto count = name_files(index);
  return count == 0 || submit(count, place);
}

// False where there are enough requests.
bool ReadAhead::submit(std::size_t count, std::uint64_t place) {
  try {
    if (!pool_) pool_ = std::make_unique<native::ReadPool>(kMostRequests, kThreads);
    if (pool_->capacity() - pool_->in_flight() < count) return false;
    const auto tag = next_tag_++;
    // One that is larger is read ahead in part.
    const auto most = (largest_ == 0 ? kMostAhead / kThreads : kMostAhead) / count;
    auto& sample = reading_[tag];
    sample.place = place;
    for (std::size_t at = 0; at < count; ++at) {
      const auto& part = parts_.parts()[at];
      if (!pool_->warm(tag, part.path, part.offset, std::min(part.bytes, most))) break;
      ++sample.parts;
    }
    if (sample.parts == 0) {  // in a fork of the process, whose threads these are
      reading_.erase(tag);
      is_off_ = true;
    }
  } catch (const std::exception&) {
    is_off_ = true;
  }
  return !is_off_;
}

// As long as nobody knows how large samples are, they are few.
std::size_t ReadAhead::limit() const {
  if (largest_ == 0) return std::min(samples_, kThreads);
  return static_cast<std::size_t>(std::clamp<std::uint64_t>(kMostAhead / largest_, 1, samples_));
}

}  // namespace lockstep::data::detail
