// SPDX-License-Identifier: BSD-3-Clause
// What callers do; writer_thread.cpp is the thread.
#include "training/background/writer_core.h"

#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <system_error>

#include "native/posix/futex.h"
#include "training/background/line_format.h"

namespace lockstep::training {
namespace {

constexpr std::int64_t kLeastQueue = 4096;

const BackgroundWriterOptions& checked(const BackgroundWriterOptions& options) {
  const auto check = [](bool is_right, const char* name, auto value, const char* right) {
    TORCH_CHECK(is_right, "BackgroundWriterOptions: ", name, " is ", value, "; it must be ", right);
  };
  check(options.queue_bytes() >= kLeastQueue && options.queue_bytes() <= std::int64_t{1} << 30,
        "queue_bytes", options.queue_bytes(), "from 4096 to 1073741824");
  check(options.kept_bytes() > 0, "kept_bytes", options.kept_bytes(), "1 or more");
  check(options.file_bytes() > 0, "file_bytes", options.file_bytes(), "1 or more");
  check(options.rotate_bytes() >= 0, "rotate_bytes", options.rotate_bytes(), "0 or more");
  check(options.rotated_files() >= 0 && options.rotated_files() <= 1000, "rotated_files",
        options.rotated_files(), "from 0 to 1000");
  const auto check_time = [&](const char* name, std::chrono::milliseconds time, auto most) {
    TORCH_CHECK(time.count() >= 0 && time <= most, "BackgroundWriterOptions: ", name, " is ",
                time.count(), " ms; it must be from 0 to ", std::chrono::milliseconds(most).count(),
                " ms");
  };
  check_time("full_queue_wait", options.full_queue_wait(), std::chrono::minutes(1));
  check_time("batch_delay", options.batch_delay(), std::chrono::seconds(1));
  check_time("close_timeout", options.close_timeout(), std::chrono::hours(24));
  return options;
}

std::optional<native::ProcessEnd>& made(std::optional<native::ProcessEnd>& end,
                                        std::chrono::milliseconds limit) {
  try {
    end.emplace(limit);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "BackgroundWriter: ", error.what());
  }
  return end;
}

std::int64_t nanoseconds_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// What two users of a file must agree on.
std::string in_words(const LogFileSettings& settings) {
  std::string text = "append";
  if (settings.is_sink) {
    text = "file_log with the prefix '";
    text += settings.prefix;
    text += "'";
  }
  text += ", rotate_bytes ";
  text += std::to_string(settings.rotate_bytes);
  text += " and rotated_files ";
  return text + std::to_string(settings.rotated_files);
}

void check_same(const LineChannel& channel, const LogFileSettings& settings) {
  const std::string wanted = in_words(settings);
  TORCH_CHECK(channel.settings() == wanted, channel.path(), ": it is written by ",
              channel.settings(), ", and cannot be written by ", wanted,
              " as well; give them different files, or the same options");
}

}  // namespace

std::string absolute_name(const std::filesystem::path& path) {
  TORCH_CHECK(!path.empty(), "the path of a file is empty");
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  TORCH_CHECK(!error, path.string(),
              " is relative, and the folder of the process cannot be found: ", error.message());
  return absolute.lexically_normal().string();
}

WriterCore::WriterCore(const BackgroundWriterOptions& options, native::FileSystem& files)
    : options_(checked(options)),
      files_(files),
      counters_(std::make_shared<WriterCounters>()),
      word_(made(process_end_, options.close_timeout())->word()),
      ring_(static_cast<std::size_t>(options.queue_bytes())) {}

LineChannel& WriterCore::channel_of(const std::string& path) {
  {
    const std::lock_guard lock(channels_mutex_);
    const auto found = by_path_.find(path);
    if (found != by_path_.end() && !found->second->is_sink()) return *found->second;
  }
  LogFileSettings settings;
  settings.rotate_bytes = static_cast<std::uint64_t>(options_.rotate_bytes());
  settings.rotated_files = static_cast<int>(options_.rotated_files());
  settings.format = append_line;
  settings.format_of_note = append_note_as_json;
  return channel_of(path, std::move(settings));
}

LineChannel& WriterCore::channel_of(const std::string& path, LogFileSettings settings) {
  settings.kept_bytes = static_cast<std::uint64_t>(options_.kept_bytes());
  const std::string absolute = absolute_name(path);
  const std::lock_guard lock(channels_mutex_);
  for (const auto& channel : channels_) {
    if (channel->path() != absolute) continue;
    check_same(*channel, settings);
    by_path_.emplace(path, channel.get());
    return *channel;
  }
  const bool is_sink = settings.is_sink;
  const std::string words = in_words(settings);
  channels_.push_back(std::make_unique<LineChannel>(
      absolute, std::make_unique<LogFile>(absolute, std::move(settings), counters_, files_),
      is_sink, words));
  auto& channel = *channels_.back();
  by_path_.emplace(path, &channel);
  const std::lock_guard lock_new(new_mutex_);
  new_channels_.push_back(&channel);
  return channel;
}

LineChannel& WriterCore::add(std::unique_ptr<Outlet> outlet, bool is_sink) {
  const std::lock_guard lock(channels_mutex_);
  channels_.push_back(std::make_unique<LineChannel>("", std::move(outlet), is_sink));
  auto& channel = *channels_.back();
  {
    const std::lock_guard lock_new(new_mutex_);
    new_channels_.push_back(&channel);
  }
  wake(kWork);  // there may be lines of the run before
  return channel;
}

bool WriterCore::push(LineChannel& channel, logging::Level level, std::string_view text,
                      bool may_wait) {
  return push({&channel, nanoseconds_now(), level, text}, may_wait);
}

bool WriterCore::push(const QueuedLine& line, bool may_wait) {
  counters_->lines.fetch_add(1, std::memory_order_relaxed);
  // The thread itself logs too, and must not wait for itself.
  const bool is_taken = ring_.push(line) || (may_wait && !is_thread() && push_waiting(line));
  if (!is_taken) {
    line.channel->lost.fetch_add(1);
    counters_->lines_lost.fetch_add(1, std::memory_order_relaxed);
  }
  wake(is_taken && !ring_.is_half_full() ? kWork : kWork | kUrgent);
  // Nobody may be there to write it later.
  if (native::ProcessEnd::is_exiting() && !is_thread()) flush_at_exit();
  return is_taken;
}

/// For files alone, and not for long: servers are out of reach then.
void WriterCore::flush_at_exit() {
  const auto left = exit_wait_.load();
  if (left <= 0) return;
  const auto start = std::chrono::steady_clock::now();
  flush(Deadline::after(std::chrono::milliseconds(left)), false);
  const auto waited = std::chrono::steady_clock::now() - start;
  exit_wait_ -= std::chrono::duration_cast<std::chrono::milliseconds>(waited).count();
}

bool WriterCore::push_waiting(const QueuedLine& line) {
  if (has_waited_in_vain_.load(std::memory_order_relaxed)) return false;
  const auto deadline = Deadline::after(options_.full_queue_wait());
  bool is_taken = false;
  waiting_.fetch_add(1);
  wake(kWork | kUrgent);
  while (true) {
    const auto room = room_.load();
    is_taken = ring_.push(line);
    if (is_taken || deadline.has_passed()) break;
    native::futex_wait(room_, room, deadline.remaining());
  }
  waiting_.fetch_sub(1);
  if (!is_taken) has_waited_in_vain_.store(true);
  return is_taken;
}

/// One system call a batch: the bits stay until the thread has taken the lines.
void WriterCore::wake(std::uint32_t bits) {
  // Before the word is read: either this sees that the thread has taken the bits, or the thread
  // sees what was queued.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if ((word_.load(std::memory_order_relaxed) & bits) == bits) return;
  if ((word_.fetch_or(bits) & bits) != bits) native::futex_wake_all(word_);
}

std::future<void> WriterCore::add(std::unique_ptr<FileJob> job) {
  const auto most = static_cast<std::uint64_t>(options_.file_bytes());
  const auto before = waiting_bytes_.fetch_add(job->cost());
  if (before > 0 && before + job->cost() > most) {
    waiting_bytes_.fetch_sub(job->cost());
    return failed(job->path() + " was not written: files of " + std::to_string(before) +
                  " bytes are waiting to be written, and file_bytes is " + std::to_string(most) +
                  "; wait for an earlier future");
  }
  counters_->files.fetch_add(1);
  auto future = job->promise.get_future();
  {
    // Before the ring's: who has that one must not wait for the thread, which has a low priority.
    const std::lock_guard lock(new_mutex_);
    ring_.with_position([&](std::uint64_t position) { job->position = position; });
    job->number = ++last_job_;
    new_jobs_.push_back(std::move(job));
  }
  wake(kWork | kUrgent);
  return future;
}

std::future<void> WriterCore::failed(const std::string& reason) {
  counters_->files.fetch_add(1);
  counters_->files_failed.fetch_add(1);
  logging::warning("BackgroundWriter: " + reason);
  std::promise<void> promise;
  promise.set_exception(std::make_exception_ptr(
      c10::Error({__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, reason)));
  return promise.get_future();
}

bool WriterCore::flush(const Deadline& deadline, bool of_remotes) {
  const auto flush = std::make_shared<Flush>();
  flush->of_remotes = of_remotes;
  return wait_for(flush, deadline);
}

bool WriterCore::flush(const Deadline& deadline, Outlet& outlet) {
  const auto flush = std::make_shared<Flush>();
  flush->only = &outlet;
  return wait_for(flush, deadline);
}

bool WriterCore::wait_for(const std::shared_ptr<Flush>& flush, const Deadline& deadline) {
  {
    const std::lock_guard lock(new_mutex_);
    flush->position = ring_.position();
    flush->job = last_job_;
    new_flushes_.push_back(flush);
  }
  wake(kWork | kUrgent);
  while (flush->is_done.load() == 0) {
    if (deadline.has_passed()) return false;
    native::futex_wait(flush->is_done, 0, deadline.remaining());
  }
  return true;
}

BackgroundWriterStatistics WriterCore::statistics() const {
  BackgroundWriterStatistics now;
  // In this order: what is written was given before.
  now.lines_written = counters_->lines_written.load();
  now.lines_lost = counters_->lines_lost.load();
  now.lines = counters_->lines.load();
  now.files_written = counters_->files_written.load();
  now.files_failed = counters_->files_failed.load();
  now.files = counters_->files.load();
  now.bytes = counters_->bytes.load();
  return now;
}

void WriterCore::close() {
  wake(kClose | kUrgent);
}

bool WriterCore::wait_for_end(const Deadline& deadline) const {
  while (has_ended_.load() == 0) {
    if (deadline.has_passed()) return false;
    native::futex_wait(has_ended_, 0, deadline.remaining());
  }
  return true;
}

}  // namespace lockstep::training
