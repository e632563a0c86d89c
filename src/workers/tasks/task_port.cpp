// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <lockstep/workers/detail/task_port.h>
#include <lockstep/workers/task_cancelled_error.h>
#include <lockstep/workers/task_pool_options.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "native/posix/loaded_code.h"
#include "workers/pool_core.h"
#include "workers/pool_frame.h"
#include "workers/task_errors.h"

namespace lockstep::workers {
namespace {

// Those that wait look up as often as this; they are woken earlier.
constexpr std::chrono::seconds kLook{1};
// Far from each other, since neighbours' seeds are other programs' favourites.
constexpr std::uint64_t kSeedStride = 1'000'003;

/// A task of a pool, in threads with the call itself.
class PortTask final : public PoolTask {
 public:
  PortTask(std::uint32_t attempts, std::function<void()> call)
      : attempts_(attempts), call_(std::move(call)) {}

  // What the call has is the program's, and goes with it.
  void run() override { std::exchange(call_, nullptr)(); }
  void drop() noexcept override { call_ = nullptr; }
  [[nodiscard]] std::uint32_t attempts() const { return attempts_; }

 private:
  std::uint32_t attempts_;
  std::function<void()> call_;
};

void check_options(const TaskPoolOptions& options) {
  const auto check = [](const char* name, std::int64_t value, std::int64_t least,
                        std::int64_t most) {
    TORCH_CHECK(value >= least && value <= most, "TaskPoolOptions: ", name, " is ", value,
                "; it must be from ", least, " to ", most);
  };
  check("workers", options.workers(), 1, TaskPoolOptions::kMaxWorkers);
  check("queue", options.queue(), 1, TaskPoolOptions::kMaxQueue);
  check("leases", options.leases(), 0, TaskPoolOptions::kMaxQueue);
  check("attempts", options.attempts(), 1, 100);
  check("operator_threads", options.operator_threads(), 1, 1024);
  TORCH_CHECK(options.timeout().count() > 0, "TaskPoolOptions: timeout is ",
              options.timeout().count(), " ms; it must be at least 1 ms");
  TORCH_CHECK(options.submit_timeout().count() >= 0, "TaskPoolOptions: submit_timeout is ",
              options.submit_timeout().count(), " ms; it must not be negative");
  TORCH_CHECK(options.kind() != WorkerKind::Spawn,
              "TaskPoolOptions: kind is Spawn, but a fresh run of the program does not know its "
              "functions; choose Process or Thread");
}

// In a worker process.
void call_code(PayloadReader& arguments, PayloadWriter& result) {
  arguments.read_value<TaskCode>()(arguments, result);
}

// A thread pool that the program had started does not exist after the fork; with one thread it is
// never asked for.
void prepare_process(const TaskPoolOptions& options, std::uint64_t seed) {
  at::set_num_threads(static_cast<int>(options.operator_threads()));
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(seed);
}

PoolPlan plan_of(const TaskPoolOptions& options) {
  PoolPlan plan;
  plan.shape.workers = static_cast<std::size_t>(options.workers());
  plan.shape.slots = static_cast<std::size_t>(options.queue());
  plan.shape.leases = static_cast<std::size_t>(options.leases());
  plan.has_threads = options.kind() == WorkerKind::Thread;
  plan.timeout = options.timeout();
  plan.attempts = static_cast<std::uint32_t>(options.attempts());
  plan.function = &call_code;
  plan.text = &current_task_exception_text;
  const auto seed = at::detail::getDefaultCPUGenerator().current_seed();
  plan.start = [options, seed](std::size_t worker) {
    if (options.kind() == WorkerKind::Process) {
      prepare_process(options,
                      seed + (worker + 1) * kSeedStride + static_cast<std::uint64_t>(::getpid()));
    }
    if (options.worker_init()) options.worker_init()(worker);
  };
  return plan;
}

}  // namespace

TaskHandle::TaskHandle(std::shared_ptr<PoolCore> core, std::shared_ptr<PoolTask> task)
    : core_(std::move(core)), task_(std::move(task)) {}

bool TaskHandle::wait_for(std::chrono::milliseconds limit) const {
  TORCH_CHECK(is_valid(), "TaskFuture: it has no result to give, or has given it");
  TORCH_CHECK(core_->is_ours(),
              "TaskFuture: this is a copy in a fork of the program, and the pool is not there");
  return core_->wait(*task_, limit);
}

void TaskHandle::wait() const {
  while (!wait_for(kLook)) {
  }
}

void TaskHandle::check() const {
  std::string text = "task ";
  text += std::to_string(task_->number);
  switch (task_->end) {
    case TaskEnd::None:
    case TaskEnd::Result:
      return;
    case TaskEnd::Failed:
      throw error_of(task_->number, task_->failure,
                     static_cast<const PortTask&>(*task_).attempts());
    case TaskEnd::Cancelled:
      throw TaskCancelledError(text + " was cancelled before it began");
    case TaskEnd::Lost:
      if (const auto loss = core_->loss()) throw error_of("TaskPool", *loss);
      throw TaskCancelledError(text + " was not over when its pool was closed");
  }
}

PayloadReader TaskHandle::result() const {
  if (!task_->result) {
    return {task_->result_bytes, nullptr, nullptr, task_->result_blocks};
  }
  const PoolFrame frame(task_->result->data);
  return {frame.bytes(), frame.data(), task_->result, task_->result_blocks};
}

bool TaskHandle::cancel() const {
  return is_valid() && core_->is_ours() && core_->cancel(*task_);
}

struct TaskPort::Impl {
  explicit Impl(const TaskPoolOptions& given)
      : options((check_options(given), given)), core(std::make_shared<PoolCore>(plan_of(given))) {}

  TaskHandle submit(const std::shared_ptr<PortTask>& task, const PayloadWriter* arguments,
                    TaskPlace place);
  void check_is_ours() const;
  void check_code(const void* address);
  void check_closure(std::string_view closure) const;

  TaskPoolOptions options;
  native::LoadedCode code;  // before the workers: what they have, too
  std::shared_ptr<PoolCore> core;
};

TaskHandle TaskPort::Impl::submit(const std::shared_ptr<PortTask>& task,
                                  const PayloadWriter* arguments, TaskPlace place) {
  task->group = std::move(place.group);
  task->place = place.place.value_or(0);
  task->number = task->place;
  task->has_number = place.place.has_value();
  const bool may_wait = options.when_full() == WhenFull::Wait;
  const auto limit = may_wait ? options.submit_timeout() : std::chrono::milliseconds(0);
  switch (core->submit(task, arguments, limit)) {
    case PoolCore::Submitted::Yes:
      break;
    case PoolCore::Submitted::Full:
      throw TaskQueueFullError("TaskPool: the queue has been full for " +
                               std::to_string(limit.count()) + " ms, with " +
                               std::to_string(options.queue()) +
                               " tasks; TaskPoolOptions::queue says how many it holds");
    case PoolCore::Submitted::Lost:
      throw error_of("TaskPool", core->loss().value());
    case PoolCore::Submitted::Closed:
      TORCH_CHECK(false, "TaskPool: it is closed, so nothing can be submitted any more");
  }
  return {core, task};
}

// Before anything else: another thread may have held a lock at the moment of the fork.
void TaskPort::Impl::check_is_ours() const {
  TORCH_CHECK(core->is_ours(),
              "TaskPool: this is a copy in a fork of the program, and the workers are not its own; "
              "make another pool there");
}

void TaskPort::Impl::check_code(const void* address) {
  if (code.has(address)) return;
  const auto file = native::LoadedCode::file_of(address);
  TORCH_CHECK(!file.empty(), "TaskPool: the function lies in a library that was unloaded");
  TORCH_CHECK(false, "TaskPool: the function lies in ", file,
              ", which was loaded after the pool was made, so the worker processes do not have it; "
              "make the pool after dlopen");
}

// Of what a function may capture, references to local variables are the usual mistake.
void TaskPort::Impl::check_closure(std::string_view closure) const {
  for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= closure.size();
       at += alignof(std::uintptr_t)) {
    std::uintptr_t word = 0;
    std::memcpy(&word, closure.data() + at, sizeof(word));
    TORCH_CHECK(!native::is_on_this_stack(word),
                "TaskPool: the function captures a reference or a pointer to a local variable, "
                "which a worker process does not have; capture by value, or pass an argument");
  }
}

TaskPort::TaskPort(const TaskPoolOptions& options) : impl_(std::make_unique<Impl>(options)) {}

TaskPort::~TaskPort() = default;

bool TaskPort::has_threads() const noexcept {
  return impl_->options.kind() == WorkerKind::Thread;
}

const TaskPoolOptions& TaskPort::options() const noexcept {
  return impl_->options;
}

PayloadWriter TaskPort::new_payload() const {
  return PayloadWriter(impl_->core->memory().get());
}

TaskHandle TaskPort::start(TaskCode code, const void* pointer, std::string_view closure,
                           const PayloadWriter& arguments, TaskPlace place) {
  impl_->check_is_ours();
  impl_->check_code(reinterpret_cast<const void*>(code));
  if (pointer != nullptr) impl_->check_code(pointer);
  impl_->check_closure(closure);
  const auto attempts = static_cast<std::uint32_t>(impl_->options.attempts());
  return impl_->submit(std::make_shared<PortTask>(attempts, nullptr), &arguments, std::move(place));
}

TaskHandle TaskPort::start_here(std::function<void()> call, TaskPlace place) {
  impl_->check_is_ours();
  return impl_->submit(std::make_shared<PortTask>(1, std::move(call)), nullptr, std::move(place));
}

void TaskPort::check_function(bool is_there) {
  TORCH_CHECK(is_there, "TaskPool: the function is a null pointer, or empty");
}

void TaskPort::check_chunk_size(std::int64_t chunk_size, bool are_copyable) {
  TORCH_CHECK(chunk_size >= 1, "TaskPool: chunk_size is ", chunk_size, "; it must be at least 1");
  TORCH_CHECK(chunk_size == 1 || are_copyable, "TaskPool: chunk_size is ", chunk_size,
              ", but the items cannot be copied, so a chunk that fails could not be done again; "
              "leave it at 1");
}

void TaskPort::check_has_threads() const {
  TORCH_CHECK(
      has_threads(),
      "TaskPool: submit_to_thread needs a pool of threads, "
      "TaskPoolOptions().kind(WorkerKind::Thread); worker processes take tasks from submit");
}

std::shared_ptr<PoolTaskGroup> TaskPort::new_group() {
  return std::make_shared<PoolTaskGroup>();
}

std::size_t TaskPort::wait_for_any(PoolTaskGroup& group) {
  TORCH_CHECK(impl_->core->is_ours(),
              "TaskPool: this is a copy in a fork of the program, and the pool is not there");
  while (true) {
    if (const auto place = impl_->core->wait_for_any(group, kLook)) return *place;
  }
}

PoolCore& TaskPort::core() const {
  return *impl_->core;
}

}  // namespace lockstep::workers
