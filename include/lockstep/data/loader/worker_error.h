// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <optional>
#include <string>

namespace lockstep::data {

/// What became of the worker that a `WorkerError` speaks of.
enum class WorkerFailure {
  Exception,    ///< the dataset threw; the worker lives
  Exited,       ///< the process ended by itself; `exit_status()` is set
  Killed,       ///< a signal ended the process; `signal()` is set
  TimedOut,     ///< no progress within the loader's timeout
  OutOfMemory,  ///< the process grew beyond `worker_memory_limit`
  NotStarted    ///< the process could not be forked
};

/// The loader could not get a sample or a batch. The loader stays usable: the next call goes on
/// with the next batch. A worker that dies is replaced, and what it had in hand is done again; so
/// it is an error only when the same sample has ended two of them.
///
/// It carries no C++ backtrace: that would show the rank's stack, and what failed is elsewhere.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API WorkerError : public c10::Error {
 public:
  /// What is known of a failure; see the members of the same names.
  struct Context {
    WorkerFailure failure = WorkerFailure::Exception;  ///< `failure()`
    int worker = -1;                                   ///< `worker()`
    int pid = 0;                                       ///< `pid()`
    std::optional<int> exit_status;                    ///< `exit_status()`
    std::optional<int> signal;                         ///< `signal()`
    std::optional<std::int64_t> batch;                 ///< `batch_index()`
    std::optional<std::int64_t> sample;                ///< `sample_index()`
    std::string message;                               ///< `original_message()`
    std::string exception_type;                        ///< `exception_type()`
    std::string path;                                  ///< `sample_path()`
  };

  /// `what()` becomes "data worker 1 (pid 4711) ...: MESSAGE", one line as far as MESSAGE is one.
  explicit WorkerError(Context context);

  /// What became of the worker.
  [[nodiscard]] WorkerFailure failure() const noexcept { return context_.failure; }
  /// Number of the worker from 0; -1 where no single worker is to blame (`workers(0)`, the workers'
  /// parent process).
  [[nodiscard]] int worker() const noexcept { return context_.worker; }
  /// The process that failed.
  [[nodiscard]] int pid() const noexcept { return context_.pid; }
  /// The status with which the process ended by itself, if it did.
  [[nodiscard]] std::optional<int> exit_status() const noexcept { return context_.exit_status; }
  /// The signal that ended the process, if one did.
  [[nodiscard]] std::optional<int> signal() const noexcept { return context_.signal; }
  /// Number of the batch within its epoch, from 0.
  [[nodiscard]] std::optional<std::int64_t> batch_index() const noexcept { return context_.batch; }
  /// Index into the dataset of the sample in hand.
  [[nodiscard]] std::optional<std::int64_t> sample_index() const noexcept {
    return context_.sample;
  }
  /// What the dataset says of this sample (`describe(index)`); empty where it says nothing.
  [[nodiscard]] const std::string& sample_path() const noexcept { return context_.path; }
  /// Type of the dataset's exception, as "std::runtime_error"; empty where there was none.
  [[nodiscard]] const std::string& exception_type() const noexcept {
    return context_.exception_type;
  }
  /// What the dataset's exception said, or how the process ended.
  [[nodiscard]] const std::string& original_message() const noexcept { return context_.message; }

 private:
  Context context_;
};

}  // namespace lockstep::data
