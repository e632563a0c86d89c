// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_system.h"
#include "training/background/outlet.h"
#include "training/tensorboard/device_scalar.h"
#include "training/tensorboard/event_folder.h"
#include "training/tensorboard/event_record.h"

namespace lockstep::training {

/// A record that does not go through the queue: it is too large, or its value is still on a device.
struct ParkedRecord {
  std::string bytes;
  std::optional<DeviceScalar> scalar;  ///< makes the bytes when it has arrived, with what follows
  std::string tag;
  EventTime time;
  bool is_double = false;
};

/// What callers and the writer's thread share about an event file. The thread holds the lock for a
/// few instructions: callers wait for it, and it has a low priority.
///
/// Thread-safety: any thread.
class EventFileState {
 public:
  explicit EventFileState(std::uint64_t most_parked_bytes) : most_(most_parked_bytes) {}

  /// Returns the number of the record, which is what goes through the queue. Nothing: too much
  /// waits already. One that is alone is always taken.
  [[nodiscard]] std::optional<std::uint64_t> park(ParkedRecord& record);
  /// Nothing: there is none of this number.
  [[nodiscard]] std::optional<ParkedRecord> take(std::uint64_t number);

  void lose(std::uint64_t records, const std::string& reason);
  /// `reason`: of the last attempt to write; "": it has succeeded.
  void set_failure(const std::string& reason);
  /// What went wrong since the last call, in words; "": nothing.
  [[nodiscard]] std::string take_failures();

  /// The thread closes the file when all that was queued has come and is written, or when an
  /// attempt to write it fails.
  std::atomic<bool> must_close{false};
  /// So many records were put into the queue, or are about to be.
  std::atomic<std::uint64_t> queued{0};

 private:
  const std::uint64_t most_;
  std::mutex mutex_;  // guards what follows
  std::unordered_map<std::uint64_t, ParkedRecord> parked_;
  std::uint64_t parked_bytes_ = 0;
  std::uint64_t next_number_ = 0;
  std::uint64_t lost_ = 0;
  std::string lost_reason_;
  std::string failure_;
};

/// The text of a queued line that stands for a parked record. It is shorter than any record.
[[nodiscard]] std::string parked_text(std::uint64_t number);

/// Appends records to the file of a board. While it cannot be written, records are kept up to a
/// bound. Beyond it the newest are lost, and the state counts them.
class EventFile final : public Outlet {
 public:
  EventFile(NewEventFile file, std::uint64_t size, std::uint64_t kept_bytes,
            std::shared_ptr<EventFileState> state, std::shared_ptr<WriterCounters> counters,
            native::FileSystem& files);

  void note_lost(std::uint64_t lines, const std::string& reason) override;
  [[nodiscard]] TimePoint service(TimePoint now) override;
  void try_now(bool /*is_end*/) override { retry_at_ = TimePoint::min(); }
  [[nodiscard]] bool is_done() const override { return ends_.empty() && awaited_.empty(); }
  [[nodiscard]] bool is_failing() const override { return !failure_.empty(); }
  [[nodiscard]] std::string give_up() override;

 private:
  void take(const QueuedLine& line) override;
  void add(std::string_view record);
  void lose(std::uint64_t records, const std::string& reason);
  void take_arrived();
  void write_pending(TimePoint now, bool may_close);
  void write_some();
  void check_name();
  void finish();
  void close();
  void drop_all(const std::string& reason);

  const std::string path_;
  const std::uint64_t kept_bytes_;
  const std::shared_ptr<EventFileState> state_;
  native::FileSystem& files_;
  native::FileDescriptor file_;                     // closed: so is the board
  std::unique_ptr<native::CloseOnFork> ends_here_;  // after the file: goes first
  std::uint64_t size_;
  std::string pending_;               // records that are not written
  std::size_t begin_ = 0;             // so much of it is
  std::deque<std::size_t> ends_;      // of records in pending_, behind begin_
  std::deque<ParkedRecord> awaited_;  // their values are still on a device
  std::string failure_;               // the last one, while it lasts
  BackOff back_off_;
  TimePoint retry_at_ = TimePoint::min();
};

}  // namespace lockstep::training
