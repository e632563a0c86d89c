// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/event_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <span>
#include <utility>

#include "native/posix/atomic_file.h"
#include "native/posix/posix_check.h"

namespace lockstep::training {
namespace {

constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{5000};
// Nothing wakes the thread when a device has sent a value.
constexpr std::chrono::milliseconds kArrivalInterval{5};
constexpr std::size_t kMostAtOnce = std::size_t{1} << 20;
constexpr std::size_t kNumberBytes = sizeof(std::uint64_t);
// Of an entry of a table, about, beside its bytes.
constexpr std::uint64_t kParkedCost = 256;
constexpr const char* kClosed = "the board is closed";
constexpr const char* kGone = "it is not where it was left";
constexpr const char* kNoTime = "there was no time to write them";

std::string records_text(std::uint64_t records, const std::string& reason) {
  std::string text = std::to_string(records);
  text += records == 1 ? " record was lost: " : " records were lost: ";
  return text + reason;
}

std::uint64_t cost_of(const ParkedRecord& record) {
  return record.bytes.size() + record.tag.size() + kParkedCost;
}

}  // namespace

std::string parked_text(std::uint64_t number) {
  std::string text(kNumberBytes, '\0');
  std::memcpy(text.data(), &number, kNumberBytes);
  return text;
}

std::optional<std::uint64_t> EventFileState::park(ParkedRecord& record) {
  const std::uint64_t cost = cost_of(record);
  const std::lock_guard lock(mutex_);
  if (!parked_.empty() && parked_bytes_ + cost > most_) return std::nullopt;
  const std::uint64_t number = next_number_++;
  parked_.emplace(number, std::move(record));
  parked_bytes_ += cost;
  return number;
}

std::optional<ParkedRecord> EventFileState::take(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = parked_.find(number);
  if (found == parked_.end()) return std::nullopt;
  std::optional<ParkedRecord> record(std::move(found->second));
  parked_.erase(found);
  parked_bytes_ -= cost_of(*record);
  return record;
}

void EventFileState::lose(std::uint64_t records, const std::string& reason) {
  const std::lock_guard lock(mutex_);
  lost_ += records;
  lost_reason_ = reason;
}

void EventFileState::set_failure(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  failure_ = reason;
}

std::string EventFileState::take_failures() {
  const std::lock_guard lock(mutex_);
  if (const auto lost = std::exchange(lost_, 0); lost > 0) return records_text(lost, lost_reason_);
  return failure_.empty() ? "" : failure_ + "; what waits is tried again";
}

EventFile::EventFile(NewEventFile file, std::uint64_t size, std::uint64_t kept_bytes,
                     std::shared_ptr<EventFileState> state,
                     std::shared_ptr<WriterCounters> counters, native::FileSystem& files)
    : Outlet(std::move(counters)),
      path_(std::move(file.path)),
      kept_bytes_(kept_bytes),
      state_(std::move(state)),
      files_(files),
      file_(std::move(file.descriptor)),
      ends_here_(std::make_unique<native::CloseOnFork>(file_.get())),
      size_(size),
      back_off_(kFirstRetry, kLastRetry) {}

void EventFile::note_lost(std::uint64_t lines, const std::string& reason) {
  state_->lose(lines, reason);
}

void EventFile::lose(std::uint64_t records, const std::string& reason) {
  if (records == 0) return;
  count_lost(records);
  state_->lose(records, reason);
}

void EventFile::take(const QueuedLine& line) {
  if (line.text.size() != kNumberBytes) {
    add(line.text);
    return;
  }
  std::uint64_t number = 0;
  std::memcpy(&number, line.text.data(), kNumberBytes);
  auto record = state_->take(number);
  if (record && record->scalar) {
    awaited_.push_back(std::move(*record));
  } else if (record) {
    add(record->bytes);
  } else {
    lose(1, kGone);
  }
}

void EventFile::add(std::string_view record) {
  if (!file_.is_open()) {
    lose(1, kClosed);
    return;
  }
  const auto has_room = [&] {
    const std::size_t kept = pending_.size() - begin_;
    return kept == 0 || kept + record.size() <= kept_bytes_;
  };
  // The queue has more than is kept: what can be written is written now.
  if (!has_room() && failure_.empty())
    write_pending(std::chrono::steady_clock::now(), /*may_close=*/false);
  if (!has_room()) {
    lose(1, failure_.empty() ? "the disk is too slow" : failure_);
    return;
  }
  pending_ += record;
  ends_.push_back(pending_.size());
}

/// In the order of the calls.
void EventFile::take_arrived() {
  while (!awaited_.empty()) {
    std::string bytes;
    std::string reason;
    try {
      auto& first = awaited_.front();
      if (!first.scalar->has_arrived()) return;
      put_scalar_event(bytes, first.time, first.tag, first.scalar->value(), first.is_double);
    } catch (const std::exception& error) {
      reason = "a value of a device cannot be read: ";
      reason += error.what();
    }
    awaited_.pop_front();
    if (reason.empty()) {
      add(bytes);
    } else {
      lose(1, reason);
    }
  }
}

Outlet::TimePoint EventFile::service(TimePoint now) {
  take_arrived();
  // What failed when the file was closed stays a failure: there is nothing to try again.
  if (file_.is_open() && now >= retry_at_) write_pending(now, /*may_close=*/true);
  const auto next = awaited_.empty() ? TimePoint::max() : now + kArrivalInterval;
  return failure_.empty() || !file_.is_open() ? next : std::min(next, retry_at_);
}

/// `may_close`: no record is on its way from the queue to the pending ones.
void EventFile::write_pending(TimePoint now, bool may_close) {
  // The thread may have looked at the queue before the last record came, and sees the close before
  // it looks again.
  const bool must_close =
      may_close && state_->must_close.load() && taken() >= state_->queued.load();
  try {
    while (begin_ < pending_.size()) write_some();
    if (must_close && is_done() && file_.is_open()) finish();
    if (failure_.empty()) return;
    back_off_.reset();
    failure_.clear();
    state_->set_failure("");
  } catch (const std::exception& error) {
    failure_ = error.what();
    state_->set_failure(failure_);
    retry_at_ = now + back_off_.take();
    if (!must_close) return;
    drop_all(failure_);
    close();
  }
}

void EventFile::write_some() {
  check_name();
  const std::size_t most = std::min(pending_.size() - begin_, kMostAtOnce);
  const auto text = std::string_view(pending_).substr(begin_, most);
  const auto done = files_.write(file_.get(), std::as_bytes(std::span(text)), size_);
  if (done < 0 && errno == EINTR) return;
  if (done <= 0) native::throw_errno("cannot be written", done < 0 ? errno : EIO);
  begin_ += static_cast<std::size_t>(done);
  size_ += static_cast<std::uint64_t>(done);
  counters().bytes += static_cast<std::uint64_t>(done);
  std::uint64_t written = 0;
  for (; !ends_.empty() && ends_.front() <= begin_; ends_.pop_front()) ++written;
  count_written(written);
  if (begin_ == pending_.size()) {
    pending_.clear();
    begin_ = 0;
  } else if (begin_ > kMostAtOnce) {  // a disk that takes a little at a time must not keep all
    pending_.erase(0, begin_);
    for (auto& end : ends_) end -= begin_;
    begin_ = 0;
  }
}

/// What goes to a file without a name is lost, and no call of the system says so.
void EventFile::check_name() {
  struct stat info {};
  if (files_.examine(file_.get(), info) == 0 && info.st_nlink == 0) {
    native::throw_errno("cannot be written, because it was removed", ENOENT);
  }
}

void EventFile::finish() {
  check_name();
  // Errors of some file systems come no sooner than here.
  if (files_.sync(file_.get()) != 0) native::throw_errno("cannot be written to the disk");
  native::sync_folder(std::filesystem::path(path_).parent_path().string(), files_);
  close();
}

void EventFile::close() {
  ends_here_.reset();
  file_.reset();
}

void EventFile::drop_all(const std::string& reason) {
  lose(ends_.size() + awaited_.size(), reason);
  ends_.clear();
  awaited_.clear();
  pending_.clear();
  begin_ = 0;
}

std::string EventFile::give_up() {
  const std::uint64_t records = ends_.size() + awaited_.size();
  const std::string reason = failure_.empty() ? kNoTime : failure_;
  drop_all(reason);
  if (records == 0) return "";
  return path_ + ": " + records_text(records, reason);
}

}  // namespace lockstep::training
