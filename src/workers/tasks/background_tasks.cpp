// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <lockstep/workers/background_tasks.h>

#include <atomic>
#include <cstddef>
#include <string>
#include <utility>

#include "workers/thread_queue.h"

namespace lockstep {
namespace {

using workers::ThreadQueue;

std::string describe(const BackgroundTaskError::Context& context) {
  std::string text = "background task '";
  text += context.task + "' failed: ";
  if (!context.exception_type.empty()) text += context.exception_type + ": ";
  text += context.message;
  if (context.others != 0) text += " (and " + std::to_string(context.others) + " more failed)";
  return text;
}

BackgroundTaskError error_of(ThreadQueue::Failed failed) {
  BackgroundTaskError::Context context;
  context.task = std::move(failed.name);
  context.exception_type = std::move(failed.type);
  context.message = std::move(failed.message);
  context.cause = std::move(failed.cause);
  context.others = failed.others;
  return BackgroundTaskError(std::move(context));
}

std::string describe_unfinished(const ThreadQueue& queue, std::chrono::milliseconds limit) {
  constexpr std::size_t kMostNames = 8;
  const auto names = queue.unfinished();
  std::string text = "BackgroundTasks: ";
  text += std::to_string(names.size()) + " tasks are not over after " +
          std::to_string(limit.count()) + " ms:";
  for (std::size_t i = 0; i < names.size() && i < kMostNames; ++i) {
    text += i == 0 ? " '" : ", '";
    text += names[i] + "'";
  }
  if (names.size() > kMostNames) text += ", ...";
  return text;
}

void check_range(const char* name, std::int64_t value, std::int64_t most) {
  TORCH_CHECK(value >= 1 && value <= most, "BackgroundTasksOptions: ", name, " is ", value,
              "; it must be from 1 to ", most);
}

BackgroundTasksOptions checked(const BackgroundTasksOptions& options) {
  check_range("threads", options.threads(), 64);
  check_range("queue", options.queue(), 1 << 20);
  TORCH_CHECK(options.submit_timeout().count() >= 0 && options.close_timeout().count() >= 0,
              "BackgroundTasksOptions: submit_timeout is ", options.submit_timeout().count(),
              " ms and close_timeout ", options.close_timeout().count(),
              " ms; neither may be negative");
  return options;
}

}  // namespace

BackgroundTaskError::BackgroundTaskError(Context context)
    : DistError(describe(context)), context_(std::move(context)) {}

struct BackgroundTasks::Impl {
  explicit Impl(const BackgroundTasksOptions& given)
      : options(checked(given)),
        queue(static_cast<std::size_t>(options.threads()),
              static_cast<std::size_t>(options.queue())) {}

  void throw_failure() {
    if (auto failed = queue.take_failure()) throw error_of(*std::move(failed));
  }

  BackgroundTasksOptions options;
  std::atomic<std::uint64_t> dropped{0};
  ThreadQueue queue;
};

BackgroundTasks::BackgroundTasks(const BackgroundTasksOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}

BackgroundTasks::~BackgroundTasks() {
  if (!impl_->queue.is_ours()) return;
  try {
    close();
  } catch (const c10::Error& error) {
    logging::warning(error.what_without_backtrace());
  } catch (const std::exception& error) {
    logging::warning(error.what());
  }
}

bool BackgroundTasks::submit(std::string name, std::function<void()> task) {
  TORCH_CHECK(task != nullptr, "BackgroundTasks: the function of task '", name, "' is empty");
  TORCH_CHECK(
      impl_->queue.is_ours(),
      "BackgroundTasks: this is a copy in a fork of the program, which has no threads; make "
      "another one there");
  impl_->throw_failure();
  const auto& options = impl_->options;
  const auto limit =
      options.drop_when_full() ? std::chrono::milliseconds(0) : options.submit_timeout();
  const auto kept = name;
  const auto pushed = impl_->queue.push(std::move(name), std::move(task), limit);
  TORCH_CHECK(pushed != ThreadQueue::Pushed::Closed, "BackgroundTasks: task '", kept,
              "' comes after close()");
  if (pushed == ThreadQueue::Pushed::Yes) return true;
  if (options.drop_when_full()) {
    impl_->dropped.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  throw TaskQueueFullError("BackgroundTasks: no room for task '" + kept + "' in " +
                           std::to_string(limit.count()) + " ms, with " +
                           std::to_string(options.queue()) + " tasks that wait");
}

void BackgroundTasks::close() {
  if (!impl_->queue.is_ours()) return;
  impl_->queue.refuse_calls();
  const auto limit = impl_->options.close_timeout();
  const bool is_over = impl_->queue.drain(limit);
  if (is_over) return impl_->throw_failure();
  auto text = describe_unfinished(impl_->queue, limit);
  if (auto failed = impl_->queue.take_failure()) {
    (text += "; ") += error_of(*std::move(failed)).what_without_backtrace();
  }
  throw TaskCancelledError(text);
}

BackgroundTasksStatistics BackgroundTasks::statistics() const {
  BackgroundTasksStatistics statistics;
  if (!impl_->queue.is_ours()) return statistics;
  const auto counts = impl_->queue.counts();
  statistics.submitted = counts.submitted;
  statistics.finished = counts.finished;
  statistics.failed = counts.failed;
  statistics.waiting = counts.waiting;
  statistics.running = counts.running;
  statistics.dropped = impl_->dropped.load(std::memory_order_relaxed);
  return statistics;
}

}  // namespace lockstep
