// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/worker_failure.h"

#include <unistd.h>

#include <cstring>
#include <sstream>
#include <string>

#include "data/loader/batch_builder.h"
#include "native/posix/posix_check.h"
#include "workers/process_end.h"

namespace lockstep::data::detail {
namespace {

std::string seconds(std::chrono::milliseconds time) {
  std::ostringstream text;
  text << std::chrono::duration<double>(time).count() << " s";
  return std::move(text).str();
}

}  // namespace

void name_sample(WorkerError::Context& context, const SampleSource& source) noexcept {
  if (!context.sample || !source.describe || *context.sample < 0) return;
  try {
    context.path = source.describe(static_cast<std::size_t>(*context.sample));
  } catch (...) {
    context.path.clear();
  }
}

WorkerError::Context context_of_exception() {
  WorkerError::Context context;
  context.pid = ::getpid();
  context.exception_type = current_exception_type();
  context.message = current_exception_message();
  return context;
}

WorkerError::Context context_of(const workers::Failure& failure,
                                std::chrono::milliseconds timeout) {
  using workers::FailureKind;
  WorkerError::Context context;
  context.worker = static_cast<int>(failure.worker);
  context.pid = failure.pid;
  switch (failure.kind) {
    case FailureKind::Exception:
      context.message = failure.message;
      context.exception_type = failure.type;
      break;
    case FailureKind::Ended:
      workers::describe_end(context, failure.wait_status);
      context.message += ", as one before it,";
      break;
    case FailureKind::NoProgress:
      context.failure = WorkerFailure::TimedOut;
      context.message = "made no progress for " + seconds(timeout) +
                        " (DataLoaderOptions::timeout), as one before it,";
      break;
    case FailureKind::TooMuchMemory:
      context.failure = WorkerFailure::OutOfMemory;
      context.message = "grew beyond worker_memory_limit, as one before it,";
      break;
  }
  return context;
}

WorkerError::Context end_of(const workers::WorkerRecord& record, std::size_t worker,
                            std::chrono::milliseconds start_timeout) {
  WorkerError::Context context;
  context.worker = static_cast<int>(worker);
  context.pid = record.pid.load(std::memory_order_relaxed);
  const int status = record.wait_status.load(std::memory_order_relaxed);
  if (record.state.load(std::memory_order_acquire) == workers::WorkerState::StartFailed) {
    context.failure = WorkerFailure::NotStarted;
    context.message = "could not be started: " + native::error_text(status);
    return context;
  }
  if (record.kill_reason.load(std::memory_order_acquire) == workers::KillReason::NoProgress) {
    context.failure = WorkerFailure::TimedOut;
    context.message =
        "was not ready for its first sample within " + seconds(start_timeout) +
        " (DataLoaderOptions::timeout; a program that is run again has 120 s at least), time after "
        "time";
    return context;
  }
  workers::describe_end(context, status);
  const std::string said(record.message,
                         ::strnlen(record.message, workers::WorkerRecord::kMessageBytes));
  if (!said.empty()) context.message = "gave up: " + said;
  return context;
}

WorkerError::Context end_of_supervisor(int pid, int wait_status) {
  WorkerError::Context context;
  context.pid = pid;
  workers::describe_end(context, wait_status);
  context.message = "lost all its workers: their parent process " + context.message;
  return context;
}

}  // namespace lockstep::data::detail
