// SPDX-License-Identifier: BSD-3-Clause
// The same channel and hosts as the data loader's, for any function.
#include <c10/util/Exception.h>
#include <lockstep/workers/worker_pool.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>

#include "native/posix/page_size.h"
#include "native/posix/posix_check.h"
#include "workers/exception_text.h"
#include "workers/forked_workers.h"
#include "workers/process_end.h"
#include "workers/task_channel.h"
#include "workers/thread_workers.h"

namespace lockstep {
namespace {

using workers::OverflowBlocks;
using workers::SlotState;
using workers::TaskChannel;

constexpr std::size_t kSlotsPerWorker = 4;
// A result that is larger gets memory of its own.
constexpr std::size_t kSlotBytes = std::size_t{16} << 10;

using Function = std::function<std::string(std::size_t)>;
using Take = std::function<void(std::size_t, std::string_view)>;

std::size_t payload_bytes(const TaskChannel& channel) {
  return channel.slots() * kSlotBytes;
}

// The payload is what was taken first.
std::byte* slot_memory(TaskChannel& channel, std::size_t slot) {
  return channel.region().payload(0, payload_bytes(channel)) + slot * kSlotBytes;
}

// The task's result word is the number of bytes.
void put_result(TaskChannel& channel, const workers::Claim& claim, const std::string& bytes) {
  channel.set_result(claim.slot, bytes.size());
  if (bytes.size() <= kSlotBytes) {
    // Of a worker that died here before this one.
    channel.blocks().free(claim.slot, OverflowBlocks::kResult);
    std::memcpy(slot_memory(channel, claim.slot), bytes.data(), bytes.size());
    return;
  }
  const auto block = channel.blocks().make(claim.slot, OverflowBlocks::kResult, bytes.size());
  std::memcpy(block.data(), bytes.data(), bytes.size());
  channel.blocks().publish(claim.slot, OverflowBlocks::kResult);
}

void work(TaskChannel& channel, const Function& function, std::size_t worker) {
  channel.table().workers[worker].state.store(workers::WorkerState::Running,
                                              std::memory_order_release);
  while (const auto claim = channel.claim(worker)) {
    try {
      channel.begin_item(worker, claim->slot, 0);
      put_result(channel, *claim, function(static_cast<std::size_t>(claim->items[0])));
      channel.end_item(worker);
      channel.finish(*claim);
    } catch (...) {
      workers::Failure failure;
      failure.worker = worker;
      failure.pid = ::getpid();
      failure.type = workers::current_exception_type();
      failure.message = workers::current_exception_text();
      channel.end_item(worker);
      channel.fail(*claim, failure);
    }
  }
}

TaskError error_of(std::size_t item, const workers::Failure& failure) {
  using workers::FailureKind;
  WorkerFailedError::Context context;
  if (failure.kind == FailureKind::Exception) {
    context.message = failure.message;
    context.exception_type = failure.type;
  } else {
    workers::describe_end(context, failure.wait_status);
    if (failure.kind == FailureKind::NoProgress) {
      context.failure = WorkerFailure::TimedOut;
      context.message = "took longer than the timeout and was killed";
    }
    context.message = "worker " + std::to_string(failure.worker) + " (pid " +
                      std::to_string(failure.pid) + ") " + context.message + ", as one before it";
  }
  context.worker = static_cast<int>(failure.worker);
  context.pid = failure.pid;
  return {item, context};
}

// Why nobody works any more.
WorkerFailedError error_of_end(int worker, int pid, const std::string& what, int wait_status) {
  WorkerFailedError::Context context;
  workers::describe_end(context, wait_status);
  context.worker = worker;
  context.pid = pid;
  return {"WorkerPool: " + what + " " + context.message, std::move(context)};
}

WorkerFailedError error_of_start(int worker, int error) {
  WorkerFailedError::Context context;
  context.failure = WorkerFailure::NotStarted;
  context.worker = worker;
  context.message = native::error_text(error);
  return {
      "WorkerPool: worker " + std::to_string(worker) + " could not be started: " + context.message,
      std::move(context)};
}

// One call of map.
class Run {
 public:
  Run(const WorkerPoolOptions& options, std::size_t count, const Function& function,
      const Take& take, bool in_order)
      : options_(options),
        count_(count),
        take_(take),
        in_order_(in_order),
        workers_(std::min(static_cast<std::size_t>(options.workers()), count)),
        channel_(std::make_shared<TaskChannel>(
            workers::ChannelShape{workers_ * kSlotsPerWorker, workers_, 1})) {
    const auto payload = native::round_up_to_page(payload_bytes(*channel_));
    channel_->region().reserve(channel_->blocks().take_space(payload), payload);
    is_used_.assign(channel_->slots(), false);
    workers::WorkerProgram program;
    program.run = [channel = channel_, function](std::size_t worker) {
      work(*channel, function, worker);
    };
    program.repair = [channel = channel_](std::size_t worker) {
      channel->repair(worker, workers::Poison::Fails);
    };
    program.keep_descriptors = {channel_->region().descriptor()};
    program.timeout = options.timeout();
    if (options.kind() == WorkerKind::Thread) {
      host_ = std::make_unique<workers::ThreadWorkers>(channel_->table(), program);
    } else {
      host_ = std::make_unique<workers::ForkedWorkers>(channel_->table(), program);
    }
  }

  void finish() {
    while (over_ < count_) {
      const auto seen = channel_->events().done_count();
      if (collect() | give_out()) continue;
      check_supervisor();
      channel_->events().wake_workers();
      channel_->events().wait_for_done(seen, workers::PoolEvents::kAnyTask);
    }
    host_.reset();
    if (first_error_) throw TaskError(*first_error_);
  }

 private:
  bool give_out() {
    bool has_given = false;
    for (std::size_t slot = 0; slot < is_used_.size() && given_ < count_; ++slot) {
      if (is_used_[slot]) continue;
      const auto item = static_cast<std::int64_t>(given_);
      workers::Task task;
      task.sequence = given_++;
      task.items = {&item, 1};
      channel_->assign(slot, task);
      is_used_[slot] = has_given = true;
    }
    if (has_given) channel_->events().wake_workers();
    return has_given;
  }

  bool collect() {
    bool has_taken = false;
    for (std::size_t slot = 0; slot < is_used_.size(); ++slot) {
      if (!is_used_[slot] || channel_->state(slot) != SlotState::Ready) continue;
      const auto item = static_cast<std::size_t>(channel_->sequence(slot));
      if (const auto failure = channel_->failures().first(slot)) {
        if (!first_error_ || item < first_error_->item()) first_error_ = error_of(item, *failure);
        channel_->blocks().free_all(slot);
        pass_on(item, std::nullopt);
      } else {
        pass_on(item, read_result(slot));
      }
      channel_->release(slot);
      is_used_[slot] = false;
      has_taken = true;
      ++over_;
      if (options_.progress()) options_.progress()(over_, count_);
    }
    return has_taken;
  }

  std::string read_result(std::size_t slot) {
    const auto bytes = static_cast<std::size_t>(channel_->result(slot));
    auto block = channel_->blocks().map(slot, OverflowBlocks::kResult);
    const auto* place = block ? block->data() : slot_memory(*channel_, slot);
    std::string result(reinterpret_cast<const char*>(place),
                       std::min(bytes, block ? block->size() : kSlotBytes));
    if (block) block->drop();
    return result;
  }

  void pass_on(std::size_t item, std::optional<std::string> bytes) {
    if (!in_order_) {
      if (bytes) take_(item, *bytes);
      return;
    }
    early_.emplace(item, std::move(bytes));
    for (auto it = early_.begin(); it != early_.end() && it->first == next_;) {
      if (it->second) take_(it->first, *it->second);
      it = early_.erase(it);
      ++next_;
    }
  }

  void check_supervisor() {
    if (const auto status = host_->supervisor_status()) {
      throw error_of_end(-1, host_->supervisor_pid(), "the workers' parent process", *status);
    }
    bool is_anyone_left = false;
    const auto& workers = channel_->table().workers;
    for (std::size_t worker = 0; worker < workers.size(); ++worker) {
      const auto state = workers[worker].state.load(std::memory_order_acquire);
      is_anyone_left = is_anyone_left || state != workers::WorkerState::GivenUp;
      if (state != workers::WorkerState::StartFailed) continue;
      throw error_of_start(static_cast<int>(worker), workers[worker].wait_status.load());
    }
    if (is_anyone_left) return;
    throw error_of_end(0, workers[0].pid.load(),
                       "all workers ended again and again before they took an item; the first",
                       workers[0].wait_status.load());
  }

  const WorkerPoolOptions& options_;
  std::size_t count_;
  const Take& take_;
  bool in_order_;
  std::size_t workers_;
  std::shared_ptr<TaskChannel> channel_;
  std::vector<bool> is_used_;
  std::map<std::size_t, std::optional<std::string>> early_;
  std::size_t given_ = 0;
  std::size_t over_ = 0;
  std::size_t next_ = 0;
  std::optional<TaskError> first_error_;
  std::unique_ptr<workers::WorkerHost> host_;  // last: it runs on all of the above
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
