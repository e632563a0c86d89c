// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>

#include <optional>
#include <string>

namespace lockstep {

/// What became of the worker that a `WorkerFailedError` speaks of.
enum class WorkerFailure {
  Exception,    ///< the program's function or dataset threw; the worker lives
  Exited,       ///< the process ended by itself; `exit_status()` is set
  Killed,       ///< a signal ended the process; `signal()` is set
  TimedOut,     ///< no progress within the timeout
  OutOfMemory,  ///< the process grew beyond `DataLoaderOptions::worker_memory_limit`
  NotStarted    ///< the process could not be forked
};

/// A worker of a `data::DataLoader` or a `WorkerPool` could not do its work. `data::WorkerError`
/// and `TaskError` say which work that was.
///
/// It carries no C++ backtrace: that would show the stack of the thread that throws, and what
/// failed is elsewhere.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API WorkerFailedError : public c10::DistError {
 public:
  /// What is known of a failure; see the members of the same names.
  struct Context {
    WorkerFailure failure = WorkerFailure::Exception;  ///< `failure()`
    int worker = -1;                                   ///< `worker()`
    int pid = 0;                                       ///< `pid()`
    std::optional<int> exit_status;                    ///< `exit_status()`
    std::optional<int> signal;                         ///< `signal()`
    std::string message;                               ///< `original_message()`
    std::string exception_type;                        ///< `exception_type()`
  };

  /// `what()` becomes `text`.
  WorkerFailedError(const std::string& text, Context context);

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
  /// Type of the program's exception, as "std::runtime_error"; empty where there was none.
  [[nodiscard]] const std::string& exception_type() const noexcept {
    return context_.exception_type;
  }
  /// What the program's exception said, or how the process ended.
  [[nodiscard]] const std::string& original_message() const noexcept { return context_.message; }

 private:
  Context context_;
};

}  // namespace lockstep
