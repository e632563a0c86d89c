// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/background_writer.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "concurrency/deadline.h"
#include "native/posix/file_system.h"
#include "native/posix/process_end.h"
#include "training/background/file_job.h"
#include "training/background/line_ring.h"
#include "training/background/log_file.h"
#include "training/background/outlet.h"

namespace lockstep::training {

/// Absolute, and without "..".
/// Throws: `c10::Error` for an empty path, and where the process has no folder any more.
[[nodiscard]] std::string absolute_name(const std::filesystem::path& path);

/// What callers and the thread of a writer share. The thread keeps it alive.
///
/// Callers hand over lines by a ring, and files by a list. The thread gives each line to its outlet
/// and lets the outlets, then small files, then a piece of a large one have their turn.
///
/// Thread-safety: any thread, but `run`, which is the thread.
class WriterCore {
 public:
  /// Throws: `c10::Error` for options out of range.
  WriterCore(const BackgroundWriterOptions& options, native::FileSystem& files);

  [[nodiscard]] const BackgroundWriterOptions& options() const noexcept { return options_; }
  [[nodiscard]] const std::shared_ptr<WriterCounters>& counters() const noexcept {
    return counters_;
  }
  [[nodiscard]] const std::shared_ptr<CopyMemory>& memories() const noexcept { return memories_; }
  [[nodiscard]] native::FileSystem& files() const noexcept { return files_; }

  /// That of a file, which is made with the first call for it.
  LineChannel& channel_of(const std::string& path);
  LineChannel& channel_of(const std::string& path, LogFileSettings settings);
  /// `is_sink`: whether it has log lines.
  LineChannel& add(std::unique_ptr<Outlet> outlet, bool is_sink = true);

  /// `may_wait`: for room, `full_queue_wait` at most. False: the line is lost, and counted.
  bool push(LineChannel& channel, logging::Level level, std::string_view text, bool may_wait);
  /// The same, for those who have looked at the clock.
  bool push(const QueuedLine& line, bool may_wait);
  /// Where too much waits already, the future has an error.
  std::future<void> add(std::unique_ptr<FileJob> job);
  /// For files that never come to the queue: counted and logged.
  std::future<void> failed(const std::string& reason);
  /// `of_remotes`: what goes to servers is waited for, too.
  bool flush(const Deadline& deadline, bool of_remotes = true);
  /// Waits for what goes to `outlet` alone, or until an attempt to write it has failed.
  bool flush(const Deadline& deadline, Outlet& outlet);
  [[nodiscard]] BackgroundWriterStatistics statistics() const;

  /// The thread. Returns after `close`.
  void run();
  void close();
  /// False: the thread has not ended before the deadline.
  [[nodiscard]] bool wait_for_end(const Deadline& deadline) const;

 private:
  using TimePoint = Outlet::TimePoint;

  // Bits of the word on which the thread sleeps.
  static constexpr std::uint32_t kWork = 1;    // there are lines
  static constexpr std::uint32_t kUrgent = 2;  // do not collect more of them first
  static constexpr std::uint32_t kClose = 4;

  struct Flush {
    std::atomic<std::uint32_t> is_done{0};
    std::uint64_t position = 0;  // of the next line, when it was asked for
    std::uint64_t job = 0;       // number of the last file
    bool of_remotes = true;
    Outlet* only = nullptr;  // nothing else is waited for
    bool has_goals = false;  // the rest is the thread's
    std::vector<std::pair<const Outlet*, std::uint64_t>> goals;
  };
  struct HeldLine {
    QueuedLine line;
    std::string text;
    std::uint64_t position = 0;
  };
  [[nodiscard]] bool is_thread() const { return thread_.load() == std::this_thread::get_id(); }
  [[nodiscard]] bool push_waiting(const QueuedLine& line);
  [[nodiscard]] bool wait_for(const std::shared_ptr<Flush>& flush, const Deadline& deadline);
  void flush_at_exit();
  void wake(std::uint32_t bits);

  // The thread's.
  void sleep(TimePoint due);
  [[nodiscard]] TimePoint step();
  void take_all();
  void take_new();
  void remark(const std::string& text);
  void deliver(const QueuedLine& line, std::uint64_t position);
  [[nodiscard]] bool must_wait(const LineChannel& channel, std::uint64_t position) const;
  void release_held();
  [[nodiscard]] TimePoint service_outlets(TimePoint now);
  [[nodiscard]] bool run_job();
  [[nodiscard]] bool is_next(const FileJob& job) const;
  void finish_job(std::size_t index, const std::string& failure);
  void finish_flushes();
  [[nodiscard]] bool is_reached(Flush& flush) const;
  void end_safely(bool is_soon);
  void end(bool is_soon);
  [[nodiscard]] bool is_done(bool of_remotes) const;

  const BackgroundWriterOptions options_;
  native::FileSystem& files_;
  const std::shared_ptr<WriterCounters> counters_;
  const std::shared_ptr<CopyMemory> memories_ = std::make_shared<CopyMemory>();
  std::optional<native::ProcessEnd> process_end_;  // until the thread ends
  std::atomic<std::uint32_t>& word_;

  LineRing ring_;
  std::atomic<std::uint32_t> room_{0};  // changes when there is more room in ring_
  std::atomic<int> waiting_{0};         // callers that wait for it
  std::atomic<bool> has_waited_in_vain_{false};
  // For lines that come while the process leaves by `exit`, all together.
  std::atomic<std::int64_t> exit_wait_{native::ProcessEnd::kSoonLimit.count()};  // milliseconds

  std::mutex channels_mutex_;
  std::unordered_map<std::string, LineChannel*> by_path_;  // as given; guarded by channels_mutex_
  std::vector<std::unique_ptr<LineChannel>> channels_;     // guarded by channels_mutex_

  std::mutex new_mutex_;
  std::vector<std::unique_ptr<FileJob>> new_jobs_;   // guarded by new_mutex_
  std::vector<std::shared_ptr<Flush>> new_flushes_;  // guarded by new_mutex_
  std::vector<LineChannel*> new_channels_;           // guarded by new_mutex_
  std::uint64_t last_job_ = 0;                       // guarded by new_mutex_
  std::atomic<std::uint64_t> waiting_bytes_{0};      // of files

  // The thread's.
  std::vector<LineChannel*> active_;
  std::deque<std::unique_ptr<FileJob>> jobs_;
  std::deque<HeldLine> held_;  // lines behind a file of the same name
  std::vector<std::shared_ptr<Flush>> flushes_;
  std::size_t held_bytes_ = 0;
  bool has_ready_job_ = false;
  std::uint64_t drained_ = 0;  // position
  std::atomic<std::thread::id> thread_{};
  std::atomic<std::uint32_t> has_ended_{0};
};

}  // namespace lockstep::training
