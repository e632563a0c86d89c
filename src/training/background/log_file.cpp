// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <span>
#include <system_error>
#include <utility>

#include "native/posix/posix_check.h"
#include "training/background/log_text.h"

namespace lockstep::training {
namespace {

constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{5000};
// A file that nobody writes to does not keep a descriptor.
constexpr std::chrono::seconds kIdle{5};
constexpr mode_t kMode = 0666;  // and what the umask leaves of it
constexpr const char* kNoTime = "there was no time to write them";
constexpr std::size_t kMostAtOnce = std::size_t{1} << 20;

}  // namespace

LogFile::LogFile(std::string path, LogFileSettings settings,
                 std::shared_ptr<WriterCounters> counters, native::FileSystem& files)
    : Outlet(std::move(counters)),
      path_(std::move(path)),
      settings_(std::move(settings)),
      files_(files),
      back_off_(kFirstRetry, kLastRetry) {}

void LogFile::take(const QueuedLine& line) {
  // A queue has more than is kept: what can be written is written now.
  if (!has_room_for(line) && failure_.empty()) {
    static_cast<void>(service(std::chrono::steady_clock::now()));
  }
  if (!has_room_for(line)) {
    lost_reason_ = failure_.empty() ? path_ + " is written too slowly" : failure_;
    ++lost_;
    count_lost(1);
    return;
  }
  add_note();
  add(settings_.format, line, 0);
}

bool LogFile::has_room_for(const QueuedLine& line) const {
  const std::size_t kept = pending_.size() - begin_;
  // A line alone is always taken.
  return kept == 0 || kept + line.text.size() <= settings_.kept_bytes;
}

void LogFile::note_lost(std::uint64_t lines, const std::string& reason) {
  lost_ += lines;
  lost_reason_ = reason;
}

/// `lost`: of a note, the number that it has; 0: it is a line.
void LogFile::add(const LineFormat& format, const QueuedLine& line, std::uint64_t lost) {
  const std::size_t before = pending_.size();
  try {
    format(pending_, line);
    ends_.push_back({pending_.size(), lost > 0, lost});
  } catch (...) {
    pending_.resize(before);
    throw;
  }
}

void LogFile::add_note() {
  if (lost_ == 0) return;
  const std::string text = lost_text(lost_, lost_reason_);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  add(settings_.format_of_note,
      {nullptr, std::chrono::duration_cast<std::chrono::nanoseconds>(now).count(),
       logging::Level::Warning, text},
      lost_);
  lost_ = 0;
}

Outlet::TimePoint LogFile::service(TimePoint now) {
  if (now < retry_at_) return retry_at_;
  try {
    while (!is_done()) {
      if (ends_.empty()) add_note();
      if (!file_.is_open()) open();
      const bool is_full = settings_.rotate_bytes > 0 && !is_mid_line_ && size_ > 0 &&
                           size_ + (ends_.front().at - begin_) > settings_.rotate_bytes;
      if (is_full && now >= rotate_again_at_) {
        try {
          rotate();
          continue;
        } catch (const std::exception&) {
          // A file that is too long is better than lines that are lost.
          rotate_again_at_ = now + kLastRetry;
          continue;
        }
      }
      write_some();
      back_off_.reset();
      failure_.clear();
      close_at_ = now + kIdle;
    }
  } catch (const std::exception& error) {
    failure_ = error.what();
    close();
    retry_at_ = now + back_off_.take();
    return retry_at_;
  }
  if (now >= close_at_) reopen();
  return close_at_;
}

void LogFile::reopen() {
  close();
  close_at_ = TimePoint::max();
}

void LogFile::open() {
  // Not to wait for the other end of a pipe, which is refused below.
  constexpr int kFlags = O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  native::FileDescriptor file(files_.open(path_, O_RDWR | kFlags, kMode));
  const bool can_read = file.is_open();
  if (!can_read && errno == EACCES) {
    file = native::FileDescriptor(files_.open(path_, O_WRONLY | kFlags, kMode));
  }
  if (!file.is_open()) native::throw_errno(path_ + ": cannot be opened");
  struct stat info {};
  if (files_.examine(file.get(), info) != 0) native::throw_errno(path_ + ": cannot be examined");
  if (!S_ISREG(info.st_mode)) native::throw_errno(path_ + ": is no ordinary file", EINVAL);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  // A process that was killed, or a full disk, may have left a part of a line.
  if (can_read && size > 0 && !is_mid_line_) {
    std::array<std::byte, 1> last{};
    const auto got = files_.read(file.get(), last, size - 1);
    if (got < 0 && errno != EINTR) native::throw_errno(path_ + ": cannot be read");
    if (got == 1 && last[0] != std::byte{'\n'}) {
      static constexpr std::array<std::byte, 1> kNewline{std::byte{'\n'}};
      if (files_.write(file.get(), kNewline, size) != 1) {
        native::throw_errno(path_ + ": cannot be written");
      }
      size_ = size + 1;
      keep(std::move(file));
      return;
    }
  }
  size_ = size;
  keep(std::move(file));
}

/// Children of the process do not have it: they would keep the room of a file that is removed.
void LogFile::keep(native::FileDescriptor file) {
  file_ = std::move(file);
  ends_here_ = std::make_unique<native::CloseOnFork>(file_.get());
}

void LogFile::close() {
  ends_here_.reset();
  file_.reset();
}

void LogFile::rotate() {
  const auto numbered = [&](int number) { return path_ + "." + std::to_string(number); };
  // The oldest name first: each renaming replaces a file that has moved on, or is one too many.
  for (int number = settings_.rotated_files - 1; number >= 1; --number) {
    if (files_.rename(numbered(number), numbered(number + 1)) != 0 && errno != ENOENT) {
      native::throw_errno(numbered(number) + ": cannot be renamed");
    }
  }
  const int moved =
      settings_.rotated_files > 0 ? files_.rename(path_, numbered(1)) : files_.remove(path_);
  if (moved != 0 && errno != ENOENT) native::throw_errno(path_ + ": cannot be renamed");
  close();
}

std::size_t LogFile::bytes_that_fit() const {
  const std::size_t first = ends_.front().at - begin_;
  std::size_t most = kMostAtOnce;
  if (settings_.rotate_bytes > 0) {
    const std::uint64_t left = settings_.rotate_bytes - std::min(settings_.rotate_bytes, size_);
    most = static_cast<std::size_t>(std::min<std::uint64_t>(most, left));
  }
  std::size_t bytes = first;
  for (const auto& end : ends_) {
    if (end.at - begin_ > most) break;
    bytes = end.at - begin_;
  }
  return bytes;
}

void LogFile::write_some() {
  const std::size_t bytes = bytes_that_fit();
  const std::string_view text = std::string_view(pending_).substr(begin_, bytes);
  const auto done = files_.write(file_.get(), std::as_bytes(std::span(text)), size_);
  if (done < 0 && errno == EINTR) return;
  if (done <= 0) native::throw_errno(path_ + ": cannot be written", done < 0 ? errno : EIO);
  begin_ += static_cast<std::size_t>(done);
  size_ += static_cast<std::uint64_t>(done);
  counters().bytes += static_cast<std::uint64_t>(done);
  is_mid_line_ = true;
  drop_written();
}

void LogFile::drop_written() {
  std::uint64_t written = 0;
  while (!ends_.empty() && ends_.front().at <= begin_) {
    if (ends_.front().at == begin_) is_mid_line_ = false;
    if (!ends_.front().is_note) ++written;
    ends_.pop_front();
  }
  count_written(written);
  if (ends_.empty()) {
    pending_.clear();
    begin_ = 0;
  } else if (begin_ > kMostAtOnce) {
    pending_.erase(0, begin_);
    for (auto& end : ends_) end.at -= begin_;
    begin_ = 0;
  }
}

std::string LogFile::give_up() {
  close();
  std::uint64_t unwritten = 0;
  for (const auto& end : ends_) {
    unwritten += end.is_note ? 0 : 1;
    lost_ += end.lost;
  }
  count_lost(unwritten);
  ends_.clear();
  pending_.clear();
  begin_ = 0;
  is_mid_line_ = false;
  // The notes among them say nothing any more; this does.
  const std::uint64_t lines = unwritten + std::exchange(lost_, 0);
  if (lines == 0) return "";
  std::string text = path_ + ": ";
  if (!failure_.empty()) return text + lost_text(lines, failure_);
  return text + lost_text(lines, lost_reason_.empty() ? kNoTime : lost_reason_);
}

}  // namespace lockstep::training
