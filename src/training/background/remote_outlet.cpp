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
      back_off_(kFirstPause, kLastPause) {
  // Lines of the run before belong to this one now.
  const auto restored = spool_.restored() + spool_.torn();
  this->counters().lines += restored;
  count_taken(restored);
  if (spool_.torn() > 0) lose(spool_.torn(), "the run before was killed while it wrote them");
}

void RemoteOutlet::take(const QueuedLine& line) {
  count_taken();
  if (waiting_since_ == TimePoint::max()) waiting_since_ = std::chrono::steady_clock::now();
  if (push_note() && spool_.push({line.nanoseconds, line.level, false, std::string(line.text)})) {
    return;
  }
  std::string reason = name_;
  reason += failure_.empty() ? " is too slow" : ": " + failure_;
  lose(1, reason);
}

void RemoteOutlet::lose(std::uint64_t lines, const std::string& reason) {
  count_lost(lines);
  note_lost(lines, reason);
}

void RemoteOutlet::note_lost(std::uint64_t lines, const std::string& reason) {
  lost_ += lines;
  lost_reason_ = reason;
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
  while (true) {
    if (sending_ > 0) {
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
      if (lost_ == 0) return TimePoint::max();
      static_cast<void>(push_note());
    }
    begin_batch(now);
    // A file that cannot be read at the moment.
    if (sending_ == 0) {
      retry_at_ = now + back_off_.take();
      return retry_at_;
    }
  }
}

void RemoteOutlet::begin_batch(TimePoint now) {
  const auto records = spool_.front(transport_->batch_lines());
  sending_ = records.size();
  sending_notes_ = static_cast<std::size_t>(std::count_if(
      records.begin(), records.end(), [](const LogRecord& record) { return record.is_note; }));
  began_at_ = now;
  if (sending_ > 0) transport_->begin(records);
}

bool RemoteOutlet::finish_batch(LogTransport::State state, TimePoint now) {
  const std::size_t records = std::exchange(sending_, 0);
  const std::uint64_t lines = records - sending_notes_;
  if (state == LogTransport::State::Failed) {
    failure_ = transport_->failure();
    const milliseconds pause = transport_->pause();
    retry_at_ = now + std::max(back_off_.take(), std::min(pause, kLastPause));
    return false;
  }
  spool_.pop(records);
  waiting_since_ = now;
  failure_.clear();
  back_off_.reset();
  const bool is_refused = state == LogTransport::State::Refused;
  const auto lost = is_refused ? lines : std::min(lines, transport_->refused_lines());
  count_written(lines - lost);
  if (lost > 0) {
    const std::string reason = name_ + " refuses them: " + transport_->failure();
    lose(lost, reason);
    // A server that takes nothing does not take the number either.
    if (!std::exchange(has_said_so_, true)) {
      logging::write_to_stderr(logging::Level::Warning, lost_text(lost, reason));
    }
  } else {
    has_said_so_ = false;
  }
  if (!is_refused) return true;
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
  transport_->cancel();
  sending_ = 0;
  static_cast<void>(push_note());
  if (spool_.has_file() && spool_.save() && lost_ == 0) return "";
  const std::uint64_t unsent = spool_.forget_memory();
  count_lost(unsent);
  const std::uint64_t lines = unsent + std::exchange(lost_, 0);
  if (lines == 0) return "";
  std::string reason = failure_.empty() ? "there was no time to send them" : failure_;
  if (spool_.has_file() && !spool_.failure().empty()) reason += "; " + spool_.failure();
  return name_ + ": " + lost_text(lines, reason);
}

}  // namespace lockstep::training
