// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace lockstep::training {

class WriterAccess;

/// What a `BackgroundWriter` is told.
struct BackgroundWriterOptions {
  /// Bytes of the queue between callers and the thread.
  TORCH_ARG(std::int64_t, queue_bytes) = std::int64_t{4} << 20;
  /// Bytes of lines that are kept for each file that cannot be written at the moment.
  TORCH_ARG(std::int64_t, kept_bytes) = std::int64_t{4} << 20;
  /// Bytes of small files and of copies of tensors that may wait all together. One that is larger
  /// is taken when nothing else waits. A copy that is refused has been made before, and the largest
  /// one is kept for the next, so there may be up to two more in memory.
  TORCH_ARG(std::int64_t, file_bytes) = std::int64_t{8} << 30;
  /// The longest that a call waits for room in a full queue: `append`, and log lines of warning
  /// and above; other threads that log wait as well. After a wait in vain, no call waits before
  /// there has been room again.
  TORCH_ARG(std::chrono::milliseconds, full_queue_wait) = std::chrono::milliseconds(10);
  /// How long the thread collects lines before it writes them. A killed process loses what came in
  /// this time.
  TORCH_ARG(std::chrono::milliseconds, batch_delay) = std::chrono::milliseconds(20);
  /// Bytes at which a file of `append` is renamed and a new one begun; 0: never.
  TORCH_ARG(std::int64_t, rotate_bytes) = 0;
  /// How many renamed files are kept: `path.1` is the newest.
  TORCH_ARG(std::int64_t, rotated_files) = 5;
  /// How long the end of the writer, or of the process by `exit`, waits until everything is
  /// written. Servers get a second of it at most.
  TORCH_ARG(std::chrono::milliseconds, close_timeout) = std::chrono::minutes(1);
};

/// What a `BackgroundWriter` has done.
struct LOCKSTEP_API BackgroundWriterStatistics {
  std::uint64_t lines = 0;          ///< that were given to it, also by log sinks and boards
  std::uint64_t lines_written = 0;  ///< to files, and those that servers have taken
  std::uint64_t lines_lost = 0;     ///< of them, there is or will be a line with their number
  std::uint64_t files = 0;          ///< that were given to it by `write_file` and `save_async`
  std::uint64_t files_written = 0;  ///< of them, all is on the disk
  std::uint64_t files_failed = 0;   ///< of them, the future has the reason
  std::uint64_t bytes = 0;          ///< of lines and files that were written
};

/// Writes lines, small files and tensors in a thread of its own, so that training does not wait for
/// a disk or a server. `<lockstep/training/log_sinks.h>` has log sinks on it.
///
/// Lines go before small files, and these before tensors, of which a piece is written at a time.
/// A disk that is slow to answer a sync holds up all of them until it has answered.
/// The order of all that goes to one file is kept. docs/background_writing.md has a table of what
/// survives which end of the process.
///
/// While a writer lives, SIGTERM has a handler if its disposition is the default one (a
/// `StopRequest` goes first), and `std::terminate` has one that calls the one before. They write
/// what is queued, within a second.
///
/// What the thread has to say goes to the log sinks on the writer, or to stderr if it has none.
///
/// Copies of a writer that a fork of the process takes along do nothing.
///
/// Thread-safety: all members may be called by several threads.
/// Owns: a thread, which has a low priority and blocks all signals. A process has 64 writers at
/// most.
class LOCKSTEP_API BackgroundWriter {
 public:
  /// Throws: `c10::Error` for options out of range, and when no thread can be had.
  explicit BackgroundWriter(const BackgroundWriterOptions& options = {});
  /// Blocks: until everything is written, `close_timeout` at most. What could not be written is
  /// said on stderr.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Appends a line to a file, which is made where there is none. A newline is added where `line`
  /// does not end with one; of several lines, each is written as it is. Of the lines of one thread,
  /// each comes after those before. Returns whether the line was taken; one that was not is
  /// counted, and the number is written to the file when there is room again.
  ///
  /// `path`: what is relative belongs to the folder in which the process was at the first call.
  /// Blocks: not, but for `full_queue_wait` when the queue is full.
  /// Throws: `c10::Error` for an empty path, and for a file of `file_log`.
  bool append(const std::filesystem::path& path, std::string_view line);

  /// Writes a whole file. It has its name when all of it is on the disk; before, an older file of
  /// that name stays. What goes wrong is thrown by the future as `c10::Error`, counted and logged.
  /// A file waits for lines that were appended under its name before, for as long as these cannot
  /// be written.
  std::future<void> write_file(const std::filesystem::path& path, std::string text);

  /// Writes a file of tensors, as `save_safetensors` does. The tensors are copied now, to the CPU:
  /// training may change them when this returns. What goes wrong, with tensors that the format
  /// cannot hold too, is thrown by the future as `c10::Error`, counted and logged.
  ///
  /// Blocks: while the tensors are copied.
  std::future<void> save_async(const std::map<std::string, at::Tensor>& tensors,
                               const std::filesystem::path& path,
                               const std::map<std::string, std::string>& metadata = {});

  /// Waits until what was given before is written, or counted as lost. Returns whether it was.
  /// Blocks: `timeout` at most.
  bool flush(std::chrono::milliseconds timeout);

  /// What it has done so far.
  [[nodiscard]] BackgroundWriterStatistics statistics() const;

 private:
  friend class WriterAccess;
  class Impl;
  explicit BackgroundWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::training
