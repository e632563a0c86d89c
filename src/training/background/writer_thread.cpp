// SPDX-License-Identifier: BSD-3-Clause
// The thread of a writer.
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "native/posix/futex.h"
#include "training/background/writer_core.h"

namespace lockstep::training {
namespace {

using Clock = std::chrono::steady_clock;

// Training comes first; with 19, a busy machine would not let the thread run every second.
constexpr int kNiceness = 10;
constexpr std::chrono::milliseconds kEndPoll{2};
// The rest of ProcessEnd::kSoonLimit is for what is said on stderr.
constexpr std::chrono::milliseconds kSoonWork{900};
constexpr const char* kQueueFull = "the queue was full, or there was no memory";
// After a failure of this process's own, such as a lack of memory.
constexpr std::chrono::seconds kAfterFailure{1};

}  // namespace

void WriterCore::run() {
  // In this thread alone.
  ::setpriority(PRIO_PROCESS, 0, kNiceness);
  thread_.store(std::this_thread::get_id());
  process_end_->claim_thread();
  using End = native::ProcessEnd;
  auto due = TimePoint::min();
  while (true) {
    if (!has_ready_job_) sleep(due);
    const auto bits = word_.fetch_and(~(kWork | kUrgent));
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if ((bits & (End::kSoon | End::kAtExit)) != 0) {
      const bool is_soon = (bits & End::kSoon) != 0;
      end_safely(is_soon);
      for (auto* channel : active_) {
        if (!is_soon) channel->outlet().leave_network();
      }
      process_end_->ready();
    }
    try {
      due = step();
    } catch (const std::exception&) {
      due = Clock::now() + kAfterFailure;  // nobody would catch it
    }
    if ((bits & kClose) != 0) break;
  }
  end_safely(false);
  process_end_.reset();
  has_ended_.store(1);
  native::futex_wake_all(has_ended_);
}

/// Until there is work, and then a little longer, so that lines are written together.
void WriterCore::sleep(TimePoint due) {
  constexpr std::uint32_t kAtOnce =
      kUrgent | kClose | native::ProcessEnd::kSoon | native::ProcessEnd::kAtExit;
  const auto now = Clock::now();
  auto word = word_.load();
  if (word == 0 && due > now) {
    const auto longest = std::chrono::nanoseconds(std::chrono::hours(1));
    native::futex_wait(word_, 0, due - now < longest ? due - now : longest);
    word = word_.load();
  }
  const auto batch = Deadline::after(options_.batch_delay());
  while ((word & kWork) != 0 && (word & kAtOnce) == 0 && !batch.has_passed()) {
    native::futex_wait(word_, word, batch.remaining());
    word = word_.load();
  }
}

void WriterCore::end_safely(bool is_soon) {
  try {
    end(is_soon);
  } catch (const std::exception&) {
    // Nobody would catch it, and the process ends.
  }
}

/// One turn for all. Returns when the next is due if nothing comes meanwhile.
Outlet::TimePoint WriterCore::step() {
  take_all();
  const auto due = service_outlets(Clock::now());
  has_ready_job_ = run_job();
  finish_flushes();
  return due;
}

void WriterCore::take_all() {
  // Before the lists: of files and channels that lines before it depend on, none is missed.
  const std::uint64_t position = ring_.position();
  take_new();
  ring_.drain(position, [this](const QueuedLine& line, std::uint64_t at) { deliver(line, at); });
  drained_ = position;
  has_waited_in_vain_.store(false, std::memory_order_relaxed);
  room_.fetch_add(1);
  if (waiting_.load() > 0) native::futex_wake_all(room_);
}

void WriterCore::take_new() {
  std::vector<std::unique_ptr<FileJob>> jobs;
  std::vector<LineChannel*> channels;
  std::vector<std::shared_ptr<Flush>> flushes;
  {
    // For no longer: callers wait for it.
    const std::lock_guard lock(new_mutex_);
    jobs.swap(new_jobs_);
    channels.swap(new_channels_);
    flushes.swap(new_flushes_);
  }
  for (auto& job : jobs) jobs_.push_back(std::move(job));
  active_.insert(active_.end(), channels.begin(), channels.end());
  for (auto& flush : flushes) {
    for (auto* channel : active_) {
      if (flush->only == nullptr || flush->only == &channel->outlet()) {
        channel->outlet().try_now(false);
      }
    }
    flushes_.push_back(std::move(flush));
  }
}

void WriterCore::deliver(const QueuedLine& line, std::uint64_t position) {
  if (jobs_.empty() || !must_wait(*line.channel, position)) {
    if (!line.channel->outlet().accept(line)) line.channel->lost.fetch_add(1);
    return;
  }
  const std::size_t cost = line.text.size() + sizeof(HeldLine);
  try {
    if (held_bytes_ + cost <= static_cast<std::size_t>(options_.kept_bytes())) {
      held_.push_back({line, std::string(line.text), position});
      held_bytes_ += cost;
      return;
    }
  } catch (const std::exception&) {
    // There is no memory for it.
  }
  line.channel->lost.fetch_add(1);
  counters_->lines_lost.fetch_add(1);
}

/// Of the thread's own. It does not go to `logging`: a sink of the program's may wait for this
/// thread, or throw.
void WriterCore::remark(const std::string& text) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  bool is_said = false;
  for (auto* channel : active_) {
    if (!channel->is_sink()) continue;
    counters_->lines.fetch_add(1);
    const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    const bool is_taken = channel->outlet().accept({channel, time, logging::Level::Warning, text});
    if (!is_taken) channel->lost.fetch_add(1);
    is_said = is_said || is_taken;
  }
  if (!is_said) logging::write_to_stderr(logging::Level::Warning, text);
}

/// Whether a file of the same name comes before the line.
bool WriterCore::must_wait(const LineChannel& channel, std::uint64_t position) const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const auto& job) {
    return job->position <= position && job->path() == channel.path();
  });
}

void WriterCore::release_held() {
  std::deque<HeldLine> held = std::exchange(held_, {});
  for (auto& one : held) {
    if (must_wait(*one.line.channel, one.position)) {
      held_.push_back(std::move(one));
      continue;
    }
    held_bytes_ -= one.text.size() + sizeof(HeldLine);
    one.line.text = one.text;
    if (!one.line.channel->outlet().accept(one.line)) one.line.channel->lost.fetch_add(1);
  }
}

Outlet::TimePoint WriterCore::service_outlets(TimePoint now) {
  auto due = TimePoint::max();
  for (auto* channel : active_) {
    auto& outlet = channel->outlet();
    try {
      const auto lost = channel->lost.load();
      if (lost > 0) {
        outlet.note_lost(lost, kQueueFull);
        channel->lost.fetch_sub(lost);
      }
      due = std::min(due, outlet.service(now));
    } catch (const std::exception&) {
      due = std::min(due, now + kAfterFailure);  // the others go on
    }
  }
  return due;
}

/// Returns whether there is more to do at once.
bool WriterCore::run_job() {
  for (const bool is_large : {false, true}) {
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      if (jobs_[i]->is_large() != is_large || !is_next(*jobs_[i])) continue;
      std::string failure;
      try {
        if (!jobs_[i]->step(files_)) return true;
      } catch (const std::exception& error) {
        failure = error.what();
      }
      finish_job(i, failure);
      return true;  // lines may have waited for it
    }
  }
  return false;
}

/// Whether nothing that goes to the same file comes before it.
bool WriterCore::is_next(const FileJob& job) const {
  for (const auto& other : jobs_) {
    if (other.get() == &job) break;
    if (other->path() == job.path()) return false;
  }
  return std::all_of(active_.begin(), active_.end(), [&](const LineChannel* channel) {
    return channel->path() != job.path() || channel->outlet().is_done();
  });
}

/// `failure`: "" where there is none.
void WriterCore::finish_job(std::size_t index, const std::string& failure) {
  const auto job = std::move(jobs_[index]);
  jobs_.erase(jobs_.begin() + static_cast<std::ptrdiff_t>(index));
  for (auto* channel : active_) {
    if (channel->path() == job->path()) channel->outlet().reopen();
  }
  release_held();
  waiting_bytes_.fetch_sub(job->cost());
  if (failure.empty()) {
    counters_->files_written.fetch_add(1);
    counters_->bytes.fetch_add(job->bytes());
    job->promise.set_value();
    return;
  }
  counters_->files_failed.fetch_add(1);
  job->promise.set_exception(std::make_exception_ptr(
      c10::Error({__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, failure)));
  remark("BackgroundWriter: a file was not written: " + failure);
}

void WriterCore::finish_flushes() {
  std::erase_if(flushes_, [this](const std::shared_ptr<Flush>& flush) {
    if (flush.use_count() == 1) return true;  // whoever asked has gone
    if (!is_reached(*flush)) return false;
    flush->is_done.store(1);
    native::futex_wake_all(flush->is_done);
    return true;
  });
}

bool WriterCore::is_reached(Flush& flush) const {
  if (drained_ < flush.position) return false;
  if (flush.only != nullptr) {
    if (!flush.has_goals) flush.goals.emplace_back(flush.only, flush.only->taken());
    flush.has_goals = true;
    return flush.only->is_failing() || flush.only->settled() >= flush.goals.front().second;
  }
  const bool has_job = std::any_of(jobs_.begin(), jobs_.end(),
                                   [&](const auto& job) { return job->number <= flush.job; });
  const bool has_held = std::any_of(held_.begin(), held_.end(), [&](const HeldLine& line) {
    return line.position < flush.position;
  });
  if (has_job || has_held) return false;
  if (!flush.has_goals) {
    flush.has_goals = true;
    for (const auto* channel : active_) {
      if (channel->outlet().is_remote() && !flush.of_remotes) continue;
      flush.goals.emplace_back(&channel->outlet(), channel->outlet().taken());
    }
  }
  return std::all_of(flush.goals.begin(), flush.goals.end(),
                     [](const auto& goal) { return goal.first->settled() >= goal.second; });
}

bool WriterCore::is_done(bool of_remotes) const {
  if (!of_remotes && !(jobs_.empty() && held_.empty())) return false;
  return std::all_of(active_.begin(), active_.end(), [&](const LineChannel* channel) {
    return channel->outlet().is_remote() != of_remotes || channel->outlet().is_done();
  });
}

/// Writes what there is. What cannot be written in time is said on stderr.
void WriterCore::end(bool is_soon) {
  const auto remotes = Deadline::after(kSoonWork);
  const auto files = Deadline::after(is_soon ? kSoonWork : options_.close_timeout());
  for (auto* channel : active_) channel->outlet().try_now(true);
  while (true) {
    static_cast<void>(step());
    if (!is_soon && (word_.load() & native::ProcessEnd::kSoon) != 0) {
      end(true);
      return;
    }
    const bool is_drained = drained_ == ring_.position();
    const bool files_over = (is_drained && is_done(false)) || files.has_passed();
    if (files_over && (is_done(true) || remotes.has_passed())) break;
    if (!has_ready_job_) native::futex_wait(room_, room_.load(), kEndPoll);
  }
  take_all();
  while (!jobs_.empty()) {
    const std::string path = jobs_.front()->path();
    finish_job(0, path + ": there was no time to write it");
  }
  // Also what that has said, and the lines behind these files.
  static_cast<void>(service_outlets(Clock::now()));
  finish_flushes();
  for (auto* channel : active_) {
    const std::string text = channel->outlet().give_up();
    if (!text.empty()) logging::write_to_stderr(logging::Level::Warning, text);
  }
}

}  // namespace lockstep::training
