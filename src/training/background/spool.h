// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/logging.h>
#include <lockstep/training/log_sinks.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"

namespace lockstep::training {

/// A line that is kept until a server has it.
struct LogRecord {
  std::int64_t nanoseconds = 0;  ///< since 1970
  logging::Level level = logging::Level::Info;
  bool is_note = false;  ///< ours: it says how many lines were lost
  std::string text;

  /// How many lines a note counts: its text begins with the number. 0: it is no note.
  [[nodiscard]] std::uint64_t counted() const noexcept;
};

/// Lines that wait for a server, in their order: the first of them in a file, if there is one, the
/// others in memory. Both have bounds.
///
/// The file has one line a record, behind a line that says what it is. A line "=OFFSET" says that
/// what lies before this offset has been sent. Such a file only grows until all of it was sent, so
/// a process that is killed leaves at most one torn line at its end.
///
/// Thread-safety: none.
/// Owns: the file, and the lock on it.
class Spool {
 public:
  /// Throws: `c10::Error` for a file that cannot be opened, that another process has, or that is
  /// another one.
  Spool(const SpoolOptions& options, native::FileSystem& files);

  /// False: there is no room in memory, and the record stays with the caller.
  [[nodiscard]] bool push(LogRecord&& record);
  [[nodiscard]] bool is_empty() const noexcept { return in_file_ == 0 && memory_.empty(); }
  /// How many records were in the file when it was opened, how many of them were notes, and how
  /// many lines were none.
  [[nodiscard]] std::uint64_t restored() const noexcept { return restored_; }
  [[nodiscard]] std::uint64_t restored_notes() const noexcept { return restored_notes_; }
  [[nodiscard]] std::uint64_t torn() const noexcept { return torn_; }

  /// The first records, at most so many, and with so many bytes of text where it is more than one.
  /// They stay.
  [[nodiscard]] std::vector<LogRecord> front(std::size_t most, std::size_t bytes = SIZE_MAX);
  /// Takes the first `records` away. Returns how many: fewer where the file cannot be read at the
  /// moment. The others stay, and are sent twice.
  std::size_t pop(std::size_t records);
  /// How many records somebody has cut away from the file since the last call.
  [[nodiscard]] std::uint64_t take_cut() noexcept { return std::exchange(cut_, 0); }

  [[nodiscard]] bool has_file() const noexcept { return file_.is_open(); }
  /// Moves records from memory to the file, as many as it takes. Returns false where some stay;
  /// `failure` says why.
  bool save();
  [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
  struct Forgotten {
    std::uint64_t lines = 0;    ///< records that are no notes
    std::uint64_t counted = 0;  ///< lines that the notes count
  };
  /// The records in memory are gone.
  [[nodiscard]] Forgotten forget_memory();

 private:
  void open();
  void lock();
  void count_records();
  struct Batch {
    std::vector<LogRecord> records;
    std::uint64_t end = 0;    // behind the last of them
    bool has_failed = false;  // the file cannot be read
    bool is_cut = false;      // it ends before `end_`
  };
  [[nodiscard]] Batch read(std::uint64_t begin, std::size_t most, std::size_t bytes = SIZE_MAX);
  bool append(const std::string& text);
  void empty_file();

  const SpoolOptions options_;
  const std::string path_;
  native::FileSystem& files_;
  native::FileDescriptor file_;
  std::unique_ptr<native::CloseOnFork> ends_here_;  // after the file: goes first
  std::uint64_t begin_ = 0;                         // of what was not sent
  std::uint64_t end_ = 0;                           // of the file
  std::uint64_t in_file_ = 0;                       // records that were not sent
  std::uint64_t restored_ = 0;
  std::uint64_t restored_notes_ = 0;
  std::uint64_t torn_ = 0;
  std::uint64_t cut_ = 0;
  std::deque<LogRecord> memory_;
  std::size_t memory_bytes_ = 0;
  std::string failure_;
};

}  // namespace lockstep::training
