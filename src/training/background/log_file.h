// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"
#include "training/background/outlet.h"

namespace lockstep::training {

/// Appends a line to `text`, with its newline.
using LineFormat = std::function<void(std::string& text, const QueuedLine& line)>;

/// What a `LogFile` is told.
struct LogFileSettings {
  std::uint64_t rotate_bytes = 0;  ///< 0: never
  int rotated_files = 0;           ///< that are kept
  std::uint64_t kept_bytes = 0;    ///< of lines that cannot be written at the moment
  LineFormat format;               ///< of lines
  LineFormat format_of_note;       ///< of the line that says how many lines were lost
  bool is_sink = false;            ///< log lines
  std::string prefix;              ///< of them, as it stands in `format`
};

/// A file that lines are appended to, by writes of whole lines. While it cannot be written, lines
/// are kept up to a bound. Beyond it the newest are lost, so that the begin of what went wrong
/// stays; a line in their place says how many.
class LogFile final : public Outlet {
 public:
  LogFile(std::string path, LogFileSettings settings, std::shared_ptr<WriterCounters> counters,
          native::FileSystem& files);

  void note_lost(std::uint64_t lines, const std::string& reason) override;
  [[nodiscard]] TimePoint service(TimePoint now) override;
  void try_now(bool /*is_end*/) override { retry_at_ = TimePoint::min(); }
  [[nodiscard]] bool is_done() const override { return ends_.empty() && lost_ == 0; }
  void reopen() override;
  [[nodiscard]] std::string give_up() override;

 private:
  struct End {
    std::size_t at = 0;  // in pending_
    bool is_note = false;
    std::uint64_t lost = 0;  // lines that the note counts
  };

  void take(const QueuedLine& line) override;
  void add(const LineFormat& format, const QueuedLine& line, std::uint64_t lost);
  void add_note();
  [[nodiscard]] bool has_room_for(const QueuedLine& line) const;
  void open();
  void keep(native::FileDescriptor file);
  void close();
  void rotate();
  void write_some();
  void drop_written();
  [[nodiscard]] std::size_t bytes_that_fit() const;

  const std::string path_;
  const LogFileSettings settings_;
  native::FileSystem& files_;
  native::FileDescriptor file_;
  std::unique_ptr<native::CloseOnFork> ends_here_;  // after the file: goes first
  std::uint64_t size_ = 0;                          // of the file, as far as we know
  std::string pending_;                             // lines that are not written
  std::size_t begin_ = 0;                           // so much of it is
  std::deque<End> ends_;                            // of lines in pending_, behind begin_
  bool is_mid_line_ = false;  // the file ends within a line whose rest is pending
  std::uint64_t lost_ = 0;    // lines that no note has counted
  std::string lost_reason_;
  std::string failure_;  // the last one, while it lasts
  BackOff back_off_;
  TimePoint retry_at_ = TimePoint::min();
  TimePoint rotate_again_at_ = TimePoint::min();
  TimePoint close_at_ = TimePoint::max();
};

}  // namespace lockstep::training
