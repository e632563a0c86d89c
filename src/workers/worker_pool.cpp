// SPDX-License-Identifier: BSD-3-Clause
// The same channel and hosts as the data loader's, for any function.
#include <lockstep/workers/worker_pool.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>

#include "native/posix/child_process.h"
#include "native/posix/page_size.h"
#include "workers/exception_text.h"
#include "workers/forked_workers.h"
#include "workers/task_channel.h"
#include "workers/thread_workers.h"

namespace lockstep {
namespace {

using workers::OverflowBlocks;
using workers::SlotState;
using workers::TaskChannel;

constexpr std::size_t kMaxWorkers = 1024;
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
  if (failure.kind == FailureKind::Exception) {
    return {item, std::nullopt, failure.type, failure.message};
  }
  std::optional<int> signal;
  if (WIFSIGNALED(failure.wait_status)) signal = WTERMSIG(failure.wait_status);
  const auto how = failure.kind == FailureKind::NoProgress
                       ? std::string("took longer than the timeout and was killed")
                       : native::describe_wait_status(failure.wait_status);
  return {item, signal, "",
          "worker " + std::to_string(failure.worker) + " (pid " + std::to_string(failure.pid) +
              ") " + how + ", as one before it"};
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
        workers_(std::min(options.workers, count)),
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
    program.timeout = options.timeout;
    if (options.kind == PoolKind::Thread) {
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
      if (options_.progress) options_.progress(over_, count_);
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
      throw std::runtime_error("WorkerPool: the workers' parent process " +
                               native::describe_wait_status(*status));
    }
    bool is_anyone_left = false;
    for (const auto& record : channel_->table().workers) {
      const auto state = record.state.load(std::memory_order_acquire);
      is_anyone_left = is_anyone_left || state != workers::WorkerState::GivenUp;
      if (state != workers::WorkerState::StartFailed) continue;
      throw std::system_error(record.wait_status.load(), std::generic_category(),
                              "WorkerPool: a worker could not be started");
    }
    if (is_anyone_left) return;
    const auto status = channel_->table().workers[0].wait_status.load();
    throw std::runtime_error(
        "WorkerPool: all workers ended again and again before they took an item; the first " +
        native::describe_wait_status(status));
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

TaskError::TaskError(std::size_t item, std::optional<int> signal, std::string type,
                     std::string message)
    : std::runtime_error("item " + std::to_string(item) +
                         " failed: " + (type.empty() ? "" : type + ": ") + message),
      item_(item),
      signal_(signal),
      type_(std::move(type)),
      message_(std::move(message)) {}

WorkerPool::WorkerPool(WorkerPoolOptions options) : options_(std::move(options)) {
  if (options_.workers == 0 || options_.workers > kMaxWorkers) {
    throw std::invalid_argument("WorkerPool: workers is " + std::to_string(options_.workers) +
                                "; it must be from 1 to " + std::to_string(kMaxWorkers));
  }
  if (options_.timeout.count() <= 0) {
    throw std::invalid_argument("WorkerPool: timeout is " +
                                std::to_string(options_.timeout.count()) +
                                " ms; it must be at least 1 ms");
  }
}

void WorkerPool::apply(std::size_t count, const Function& function, const Take& take,
                       bool in_order) {
  if (count == 0) return;
  Run(options_, count, function, take, in_order).finish();
}

}  // namespace lockstep
