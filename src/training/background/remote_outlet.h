// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "training/background/outlet.h"
#include "training/background/spool.h"

namespace lockstep::training {

/// Sends lines to a server, a batch at a time. No call waits.
///
/// Thread-safety: one thread at a time.
class LogTransport {
 public:
  enum class State {
    Busy,     ///< ask again
    Sent,     ///< the server has the batch
    Failed,   ///< the batch is to be sent again later
    Refused,  ///< the server does not take the batch, and never will
    TooLarge  ///< it takes smaller ones
  };

  virtual ~LogTransport() = default;

  /// Begins to send. The batch before was sent, has failed or was refused.
  virtual void begin(const std::vector<LogRecord>& records) = 0;
  [[nodiscard]] virtual State poll(Outlet::TimePoint now) = 0;
  /// Whether parts of the batch go out one after the other: more of them may go soon.
  [[nodiscard]] virtual bool is_moving(Outlet::TimePoint /*now*/) const { return false; }
  /// Gives up the batch.
  virtual void cancel() = 0;

  /// Why the last batch was not sent, in words.
  [[nodiscard]] virtual std::string failure() const = 0;
  /// How many lines of what was sent the server did not take.
  [[nodiscard]] virtual std::uint64_t refused_lines() const { return 0; }
  /// How many of the first records of a batch that has failed or was cancelled need not be sent
  /// again.
  [[nodiscard]] virtual std::size_t sent_records() const { return 0; }
  /// How long the server wants to be left alone; 0: it has not said so.
  [[nodiscard]] virtual std::chrono::seconds pause() const { return std::chrono::seconds(0); }
  /// The most lines of a batch.
  [[nodiscard]] virtual std::size_t batch_lines() const = 0;
  /// The most bytes of their texts, where it is more than one line.
  [[nodiscard]] virtual std::size_t batch_bytes() const { return SIZE_MAX; }
};

/// Lines on their way to a server, which is tried again and again while it is away. Beyond the
/// bounds of the spool the newest lines are lost, so that the begin of what went wrong stays.
class RemoteOutlet final : public Outlet {
 public:
  /// `name`: of the server, for messages.
  RemoteOutlet(std::string name, std::unique_ptr<LogTransport> transport, const SpoolOptions& spool,
               std::shared_ptr<WriterCounters> counters, native::FileSystem& files);

  void note_lost(std::uint64_t lines, const std::string& reason) override;
  [[nodiscard]] TimePoint service(TimePoint now) override;
  void try_now(bool is_end) override { retry_at_ = is_end ? TimePoint::min() : pause_until_; }
  [[nodiscard]] bool is_done() const override {
    return !transport_ || (spool_.is_empty() && !must_note());
  }
  [[nodiscard]] bool is_remote() const override { return true; }
  [[nodiscard]] std::string give_up() override;
  void leave_network() override { transport_.reset(); }

 private:
  void take(const QueuedLine& line) override;
  void take_without_network(const QueuedLine& line);
  /// Whether a note is due. One that was refused waits for the next line.
  [[nodiscard]] bool must_note() const { return lost_ > 0 && !is_note_refused_; }
  /// Takes the first records of the batch out of the spool and counts them. `refused`: lines of
  /// them that the server did not take. Returns whether that were all.
  bool settle(std::size_t records, std::uint64_t refused);
  bool push_note();
  void lose(std::uint64_t lines, const std::string& reason);
  void begin_batch(TimePoint now);
  /// Whether the next batch may begin at once.
  bool finish_batch(LogTransport::State state, TimePoint now);
  [[nodiscard]] TimePoint keep_safe(TimePoint now);

  const std::string name_;
  std::unique_ptr<LogTransport> transport_;  // nothing after the end of the network
  Spool spool_;
  std::vector<LogRecord> batch_;  // under way; empty: none is
  std::size_t most_lines_;        // of a batch; fewer where a larger one was too large
  TimePoint began_at_ = TimePoint::min();
  TimePoint waiting_since_ = TimePoint::max();  // lines in memory have waited since then
  std::uint64_t lost_ = 0;                      // lines that no note has counted
  std::string lost_reason_;
  bool is_note_refused_ = false;
  std::string failure_;       // the last one, while it lasts
  bool has_said_so_ = false;  // that the server refuses lines, on stderr
  BackOff back_off_;
  TimePoint retry_at_ = TimePoint::min();
  TimePoint pause_until_ = TimePoint::min();  // as the server has asked
};

}  // namespace lockstep::training
