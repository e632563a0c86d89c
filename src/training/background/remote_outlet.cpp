// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/remote_outlet.h"

#include <algorithm>
#include <utility>

#include "training/background/log_text.h"

namespace lockstep::training {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{250};
constexpr milliseconds kLastPause{30'000};
// A server may ask for more than that, within reason.
constexpr std::chrono::seconds kLongestPause{3600};
// How often the transport is asked: at first a server answers soon, and one that does not is slow.
constexpr milliseconds kSoon{2};
constexpr milliseconds kLater{20};
constexpr milliseconds kSoonEnds{100};
// A process that is killed loses what is in memory alone for this time.
constexpr milliseconds kSafeAfter{500};

}  // namespace

RemoteOutlet::RemoteOutlet(std::string name, std::unique_ptr<LogTransport> transport,
                           const SpoolOptions& spool, std::shared_ptr<WriterCounters> counters,
                           native::FileSystem& files)
    : Outlet(std::move(counters)),
      name_(std::move(name)),
      transport_(std::move(transport)),
      spool_(spool, files),
      most_lines_(transport_->batch_lines()),
      back_off_(kFirstPause, kLastPause) {
  // Lines of the run before belong to this one now.
  const auto restored = spool_.restored() - spool_.restored_notes() + spool_.torn();
  this->counters().lines += restored;
  count_taken(restored);
  if (spool_.torn() > 0) lose(spool_.torn(), "the run before was killed while it wrote them");
}

void RemoteOutlet::take(const QueuedLine& line) {
  if (!transport_) {
    take_without_network(line);
    return;
  }
  is_note_refused_ = false;
  if (waiting_since_ == TimePoint::max()) waiting_since_ = std::chrono::steady_clock::now();
  if (push_note() && spool_.push({line.nanoseconds, line.level, false, std::string(line.text)})) {
    return;
  }
  std::string reason = name_;
  reason += failure_.empty() ? " is too slow" : ": " + failure_;
  lose(1, reason);
}

/// Into the file for the next run, or to stderr: the server is out of reach.
void RemoteOutlet::take_without_network(const QueuedLine& line) {
  const bool is_kept = spool_.has_file() &&
                       spool_.push({line.nanoseconds, line.level, false, std::string(line.text)});
  if (is_kept && spool_.save()) return;
  count_lost(spool_.forget_memory().lines + (is_kept ? 0 : 1));
  logging::write_to_stderr(line.level, line.text);
}

void RemoteOutlet::lose(std::uint64_t lines, const std::string& reason) {
  note_lost(lines, reason);
  count_lost(lines);
}

void RemoteOutlet::note_lost(std::uint64_t lines, const std::string& reason) {
  lost_reason_ = reason;
  lost_ += lines;
  is_note_refused_ = false;
}

/// False: there is no room for it.
bool RemoteOutlet::push_note() {
  if (lost_ == 0) return true;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  if (!spool_.push({std::chrono::duration_cast<std::chrono::nanoseconds>(now).count(),
                    logging::Level::Warning, true, lost_text(lost_, lost_reason_)})) {
    return false;
  }
  lost_ = 0;
  return true;
}

Outlet::TimePoint RemoteOutlet::service(TimePoint now) {
  if (!transport_) return TimePoint::max();
  while (true) {
    if (!batch_.empty()) {
      const auto state = transport_->poll(now);
      if (state == LogTransport::State::Busy) {
        const bool is_soon = now - began_at_ < kSoonEnds || transport_->is_moving(now);
        return std::min(now + (is_soon ? kSoon : kLater), keep_safe(now));
      }
      if (!finish_batch(state, now)) return std::min(retry_at_, keep_safe(now));
    }
    if (now < retry_at_) return std::min(retry_at_, keep_safe(now));
    if (spool_.is_empty()) {
      waiting_since_ = TimePoint::max();
      if (!must_note()) return TimePoint::max();
      static_cast<void>(push_note());
    }
    begin_batch(now);
    // A file that cannot be read at the moment.
    if (batch_.empty()) {
      retry_at_ = now + back_off_.take();
      return retry_at_;
    }
  }
}

void RemoteOutlet::begin_batch(TimePoint now) {
  auto records = spool_.front(most_lines_, transport_->batch_bytes());
  if (const auto cut = spool_.take_cut(); cut > 0) {
    lose(cut, "somebody has cut the file of the spool");
    if (records.empty() && push_note()) records = spool_.front(1);
  }
  began_at_ = now;
  if (!records.empty()) transport_->begin(records);
  batch_ = std::move(records);
}

bool RemoteOutlet::settle(std::size_t records, std::uint64_t refused) {
  const std::size_t taken = spool_.pop(records);
  std::uint64_t lines = 0;
  for (std::size_t i = 0; i < taken; ++i) lines += batch_[i].is_note ? 0U : 1U;
  const std::uint64_t lost = std::min(lines, refused);
  count_written(lines - lost);
  if (lost > 0) {
    const std::string reason = name_ + " refuses them: " + transport_->failure();
    lose(lost, reason);
    // A server that takes nothing does not take the number either.
    if (!std::exchange(has_said_so_, true)) {
      logging::write_to_stderr(logging::Level::Warning, lost_text(lost, reason));
    }
  }
  // All of them were refused, so the notes too: what they count is to be said again.
  if (refused >= records) {
    for (std::size_t i = 0; i < taken; ++i) lost_ += batch_[i].counted();
    // One after the other would be refused.
    is_note_refused_ = lines == 0;
  }
  return taken == records;
}

bool RemoteOutlet::finish_batch(LogTransport::State state, TimePoint now) {
  using State = LogTransport::State;
  const std::size_t records = batch_.size();
  if (state == State::TooLarge && records > 1) {
    most_lines_ = records / 2;
    batch_.clear();
    return true;
  }
  if (state == State::Failed) {
    if (const auto sent = transport_->sent_records(); sent > 0) {
      static_cast<void>(settle(std::min(sent, records), transport_->refused_lines()));
    }
    batch_.clear();
    failure_ = transport_->failure();
    const auto pause = std::min(transport_->pause(), kLongestPause);
    if (pause.count() > 0) pause_until_ = now + pause;
    retry_at_ = std::max(now + back_off_.take(), pause_until_);
    return false;
  }
  const bool is_refused = state != State::Sent;
  const std::uint64_t refused = is_refused ? records : transport_->refused_lines();
  const bool is_settled = settle(records, refused);
  batch_.clear();
  waiting_since_ = now;
  failure_.clear();
  most_lines_ = std::min(transport_->batch_lines(), 2 * most_lines_);
  if (refused == 0) has_said_so_ = false;
  if (!is_refused && is_settled) {
    back_off_.reset();
    return true;
  }
  // A note that is refused as well must not lead to another one at once.
  retry_at_ = now + back_off_.take();
  return false;
}

/// Where the spool has a file, lines that have waited in memory go there. Returns when that is due.
Outlet::TimePoint RemoteOutlet::keep_safe(TimePoint now) {
  if (!spool_.has_file() || waiting_since_ == TimePoint::max()) return TimePoint::max();
  if (now < waiting_since_ + kSafeAfter) return waiting_since_ + kSafeAfter;
  static_cast<void>(spool_.save());
  waiting_since_ = now;
  return now + kSafeAfter;
}

std::string RemoteOutlet::give_up() {
  if (!transport_) return "";
  if (!batch_.empty()) {
    const auto sent = std::min(transport_->sent_records(), batch_.size());
    if (sent > 0) static_cast<void>(settle(sent, transport_->refused_lines()));
    transport_->cancel();
    batch_.clear();
  }
  static_cast<void>(push_note());
  if (spool_.has_file() && spool_.save() && lost_ == 0) return "";
  const auto forgotten = spool_.forget_memory();
  count_lost(forgotten.lines);
  const std::uint64_t lines = forgotten.lines + forgotten.counted + std::exchange(lost_, 0);
  if (lines == 0) return "";
  std::string reason = failure_.empty() ? "there was no time to send them" : failure_;
  if (spool_.has_file() && !spool_.failure().empty()) reason += "; " + spool_.failure();
  return name_ + ": " + lost_text(lines, reason);
}

}  // namespace lockstep::training
