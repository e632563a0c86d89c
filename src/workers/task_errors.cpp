// SPDX-License-Identifier: BSD-3-Clause
#include "workers/task_errors.h"

#include <c10/util/Exception.h>

#include <exception>
#include <utility>

#include "native/posix/posix_check.h"
#include "workers/exception_text.h"
#include "workers/process_end.h"

namespace lockstep::workers {

std::string current_task_exception_text() {
  return current_exception_text([](const std::exception& error) -> std::string {
    const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
    return of_torch == nullptr ? error.what() : of_torch->what_without_backtrace();
  });
}

TaskError error_of(std::size_t item, const Failure& failure, std::uint32_t attempts) {
  WorkerFailedError::Context context;
  if (failure.kind == FailureKind::Exception) {
    context.message = failure.message;
    context.exception_type = failure.type;
  } else {
    describe_end(context, failure.wait_status);
    std::string who = "worker ";
    who += std::to_string(failure.worker) + " (pid " + std::to_string(failure.pid) + ") ";
    if (failure.kind == FailureKind::NoProgress) {
      context.failure = WorkerFailure::TimedOut;
      const bool is_thread = failure.wait_status == 0;
      if (is_thread) context.exit_status.reset();
      context.message = is_thread ? "takes longer than the timeout; a thread cannot be ended"
                                  : "took longer than the timeout and was killed";
    }
    context.message = who + context.message;
    if (attempts == 2) context.message += ", as one before it";
    if (attempts > 2) {
      context.message += ", as " + std::to_string(attempts - 1) + " before it";
    }
  }
  context.worker = static_cast<int>(failure.worker);
  context.pid = failure.pid;
  return {item, context};
}

WorkerFailedError error_of(const std::string& pool, const PoolLoss& loss) {
  WorkerFailedError::Context context;
  context.worker = loss.worker;
  context.pid = loss.pid;
  std::string text = pool;
  text += ": ";
  switch (loss.kind) {
    case PoolLoss::Kind::NotStarted:
      context.failure = WorkerFailure::NotStarted;
      context.message = native::error_text(loss.wait_status);
      text += "worker " + std::to_string(loss.worker) + " could not be started: ";
      break;
    case PoolLoss::Kind::NoProgress:
      context.failure = WorkerFailure::TimedOut;
      context.message = "has not dealt with workers that make no progress";
      text += "the workers' parent process ";
      break;
    case PoolLoss::Kind::AllStuck:
      context.failure = WorkerFailure::TimedOut;
      context.message =
          "all threads have been at their tasks for longer than the timeout, and cannot be ended";
      break;
    case PoolLoss::Kind::SupervisorEnded:
      describe_end(context, loss.wait_status);
      text += "the workers' parent process ";
      break;
    case PoolLoss::Kind::NoneLeft:
      describe_end(context, loss.wait_status);
      if (!loss.message.empty()) context.message += ": " + loss.message;
      text += "all workers ended again and again before they took an item; the first ";
      break;
  }
  text += context.message;
  return {text, std::move(context)};
}

}  // namespace lockstep::workers
