// SPDX-License-Identifier: BSD-3-Clause
// A pool for one call: the workers are forked with the function in them.
#include <c10/util/Exception.h>
#include <lockstep/workers/worker_pool.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "workers/pool_core.h"
#include "workers/pool_frame.h"
#include "workers/task_errors.h"

namespace lockstep {
namespace {

using workers::PoolCore;
using workers::TaskEnd;

constexpr std::size_t kSlotsPerWorker = 4;
constexpr std::uint32_t kAttempts = 2;
// Nobody can end a thread.
constexpr std::chrono::hours kTimeoutOfThreads{24 * 365};

using Function = std::function<std::string(std::size_t)>;
using Take = std::function<void(std::size_t, std::string_view)>;

// One item; in a pool of threads, with its result.
class ItemTask final : public workers::PoolTask {
 public:
  ItemTask(std::size_t item, Function function) : function_(std::move(function)) {
    number = place = item;
    has_number = true;
  }
  void run() override { result_bytes = std::exchange(function_, nullptr)(number); }

  [[nodiscard]] std::string_view bytes() const {
    return result ? workers::PoolFrame(result->data).bytes() : std::string_view(result_bytes);
  }

 private:
  Function function_;
};

// One call of map.
class Run {
 public:
  Run(const WorkerPoolOptions& options, std::size_t count, const Function& function,
      const Take& take, bool in_order)
      : options_(options),
        count_(count),
        function_(function),
        take_(take),
        in_order_(in_order),
        core_(plan_of(options, count, function)) {}

  void finish() {
    while (over_ < count_) {
      give_out();
      if (const auto item = core_.wait_for_any(*group_, kLook)) {
        collect(*item);
      } else if (const auto loss = core_.loss()) {
        throw workers::error_of("WorkerPool", *loss);
      }
    }
    core_.close();
    if (first_error_) throw TaskError(*first_error_);
  }

 private:
  static constexpr std::chrono::seconds kLook{1};

  static workers::PoolPlan plan_of(const WorkerPoolOptions& options, std::size_t count,
                                   const Function& function) {
    workers::PoolPlan plan;
    plan.shape.workers = std::min(static_cast<std::size_t>(options.workers()), count);
    plan.shape.slots = plan.shape.workers * kSlotsPerWorker;
    plan.shape.leases = plan.shape.slots;
    plan.has_threads = options.kind() == WorkerKind::Thread;
    plan.timeout = plan.has_threads ? kTimeoutOfThreads : options.timeout();
    plan.attempts = kAttempts;
    plan.text = &workers::current_task_exception_text;
    plan.function = [function](workers::PayloadReader& arguments, workers::PayloadWriter& result) {
      const auto bytes = function(arguments.read_value<std::size_t>());
      result.write(bytes.data(), bytes.size());
    };
    return plan;
  }

  void give_out() {
    const auto most = core_.memory()->shape().slots;
    for (; given_ < count_ && tasks_.size() < most; ++given_) {
      workers::PayloadWriter arguments;
      arguments.write_value(given_);
      const auto task = std::make_shared<ItemTask>(given_, function_);
      task->group = group_;
      // There is a slot for it; if there are no workers, `finish` says so.
      if (core_.submit(task, &arguments, kLook) != PoolCore::Submitted::Yes) return;
      tasks_.emplace(given_, task);
    }
  }

  void collect(std::size_t item) {
    auto task = std::move(tasks_.extract(item).mapped());
    if (task->end == TaskEnd::Lost) throw workers::error_of("WorkerPool", core_.loss().value());
    if (task->end == TaskEnd::Failed) {
      if (!first_error_ || item < first_error_->item()) {
        first_error_ = workers::error_of(item, task->failure, kAttempts);
      }
      task.reset();
    }
    pass_on(item, std::move(task));
    ++over_;
    if (options_.progress()) options_.progress()(over_, count_);
  }

  void pass_on(std::size_t item, std::shared_ptr<ItemTask> task) {
    if (!in_order_) {
      if (task) take_(item, task->bytes());
      return;
    }
    early_.emplace(item, std::move(task));
    for (auto it = early_.begin(); it != early_.end() && it->first == next_;) {
      if (it->second) take_(it->first, it->second->bytes());
      it = early_.erase(it);
      ++next_;
    }
  }

  const WorkerPoolOptions& options_;
  std::size_t count_;
  const Function& function_;
  const Take& take_;
  bool in_order_;
  std::map<std::size_t, std::shared_ptr<ItemTask>> tasks_;  // that are not over
  std::map<std::size_t, std::shared_ptr<ItemTask>> early_;  // none for those that failed
  std::shared_ptr<workers::PoolTaskGroup> group_ = std::make_shared<workers::PoolTaskGroup>();
  std::size_t given_ = 0;
  std::size_t over_ = 0;
  std::size_t next_ = 0;
  std::optional<TaskError> first_error_;
  PoolCore core_;
};

}  // namespace

WorkerPool::WorkerPool(WorkerPoolOptions options) : options_(std::move(options)) {
  TORCH_CHECK(options_.workers() >= 1 && options_.workers() <= WorkerPoolOptions::kMaxWorkers,
              "WorkerPoolOptions: workers is ", options_.workers(), "; it must be from 1 to ",
              WorkerPoolOptions::kMaxWorkers);
  TORCH_CHECK(options_.timeout().count() > 0, "WorkerPoolOptions: timeout is ",
              options_.timeout().count(), " ms; it must be at least 1 ms");
  TORCH_CHECK(options_.kind() != WorkerKind::Spawn,
              "WorkerPoolOptions: kind is Spawn, but a fresh run of the program does not know the "
              "function; choose Process or Thread");
}

void WorkerPool::apply(std::size_t count, const Function& function, const Take& take,
                       bool in_order) {
  if (count == 0) return;
  Run(options_, count, function, take, in_order).finish();
}

}  // namespace lockstep
