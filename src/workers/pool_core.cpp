// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_core.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "native/posix/futex.h"
#include "workers/forked_workers.h"
#include "workers/pool_frame.h"
#include "workers/pool_jobs.h"
#include "workers/thread_workers.h"

namespace lockstep::workers {
namespace {

using Clock = std::chrono::steady_clock;

// How often a thread that waits looks at the workers themselves.
constexpr std::chrono::milliseconds kBetweenLooks{50};
// Twice as many nanoseconds, and more, can be counted.
constexpr std::chrono::hours kLongestTimeout{24 * 3650};

}  // namespace

/// Holds the lock. What tasks have of the program's is destroyed after it is let go.
class PoolCore::Guard {
 public:
  explicit Guard(PoolCore& core) : core_(core), lock_(core.mutex_) {}
  ~Guard() {
    retired_.swap(core_.retired_);
    lock_.unlock();
    for (const auto& task : retired_) task->drop();
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  void unlock() { lock_.unlock(); }
  void lock() { lock_.lock(); }

 private:
  PoolCore& core_;
  std::vector<std::shared_ptr<PoolTask>> retired_;
  std::unique_lock<std::mutex> lock_;
};

PoolCore::PoolCore(const PoolPlan& plan)
    : has_threads_(plan.has_threads),
      memory_(std::make_shared<PoolMemory>(plan.shape)),
      jobs_(std::make_shared<PoolJobs>()) {
  jobs_->by_slot.resize(plan.shape.slots);
  for (auto slot = plan.shape.slots; slot > 0; --slot) free_slots_.push_back(slot - 1);
  const auto timeout = std::min<std::chrono::milliseconds>(plan.timeout, kLongestTimeout);
  watch_.emplace(memory_->channel()->table(), has_threads_, timeout);
  start_workers(plan, timeout);
}

void PoolCore::start_workers(const PoolPlan& plan, std::chrono::milliseconds timeout) {
  const auto& table = memory_->channel()->table();
  const auto program = program_of(plan, memory_, has_threads_ ? jobs_ : nullptr, timeout);
  if (has_threads_) {
    host_ = std::make_unique<ThreadWorkers>(table, program);
  } else {
    host_ = std::make_unique<ForkedWorkers>(table, program);
  }
}

PoolCore::~PoolCore() {
  close();
}

PoolCore::Submitted PoolCore::submit(const std::shared_ptr<PoolTask>& task,
                                     const PayloadWriter* arguments,
                                     std::chrono::milliseconds limit) {
  auto& channel = *memory_->channel();
  {
    Guard guard(*this);
    look_after_workers();
    if (!find_room(guard, limit)) {
      if (loss_) return Submitted::Lost;
      return is_refusing_ ? Submitted::Closed : Submitted::Full;
    }
    const auto slot = free_slots_.back();
    free_slots_.pop_back();
    task->slot = slot;
    std::uint64_t place = 0;
    try {
      if (arguments != nullptr) put_arguments(guard, *task, *arguments, place);
    } catch (...) {
      task->arguments.clear();
      free_slots_.push_back(slot);
      throw;
    }
    if (is_refusing_ || loss_) {  // meanwhile
      task->arguments.clear();
      free_slots_.push_back(slot);
      return loss_ ? Submitted::Lost : Submitted::Closed;
    }
    task->sequence = next_sequence_;
    if (!task->has_number) task->number = next_sequence_;
    Task words;
    const std::int64_t item = 0;
    words.items = {&item, 1};
    words.sequence = next_sequence_;
    words.words[0] = place;
    jobs_->by_slot[slot] = task;
    used_slots_.push_back(slot);
    ++next_sequence_;
    ++counts_.submitted;
    channel.assign(slot, words);
  }
  channel.events().wake_worker();
  return Submitted::Yes;
}

bool PoolCore::find_room(Guard& guard, std::chrono::milliseconds limit) {
  if (free_slots_.empty() && !is_refusing_ && !loss_) {
    static_cast<void>(wait_until(guard, PoolEvents::kAnyTask, limit, [this] {
      return !free_slots_.empty() || is_refusing_ || loss_.has_value();
    }));
  }
  return !free_slots_.empty() && !is_refusing_ && !loss_;
}

// The word says where they are: 0 is the slot, otherwise a block's entry + 1. Many bytes are copied
// without the lock.
void PoolCore::put_arguments(Guard& guard, PoolTask& task, const PayloadWriter& arguments,
                             std::uint64_t& word) {
  task.arguments = arguments.blocks();
  const auto bytes = PoolFrame::bytes_for(arguments);
  if (bytes <= PoolMemory::kInline) return PoolFrame::write(arguments, memory_->input(task.slot));
  // There is an entry: each slot has one, and what else the program may take leaves as many.
  const auto block = memory_->take(bytes, 0);
  word = std::uint64_t{block->entry.value()} + 1;
  task.arguments.push_back(block);
  guard.unlock();
  PoolFrame::write(arguments, block->data);
  guard.lock();
}

std::shared_ptr<PayloadMemory> PoolCore::take_block(std::size_t bytes) {
  if (has_threads_) return nullptr;
  const Guard guard(*this);
  return memory_->take(bytes, memory_->shape().slots);
}

bool PoolCore::wait(const PoolTask& task, std::chrono::milliseconds limit) {
  Guard guard(*this);
  return wait_until(guard, task.sequence, limit, [&] { return task.end != TaskEnd::None; });
}

std::optional<std::size_t> PoolCore::wait_for_any(PoolTaskGroup& group,
                                                  std::chrono::milliseconds limit) {
  Guard guard(*this);
  if (!wait_until(guard, PoolEvents::kAnyTask, limit, [&] { return !group.over.empty(); })) {
    return std::nullopt;
  }
  const auto place = group.over.front();
  group.over.pop_front();
  return place;
}

bool PoolCore::drain(std::chrono::milliseconds limit) {
  Guard guard(*this);
  return wait_until(guard, PoolEvents::kAnyTask, limit,
                    [this] { return used_slots_.empty() || loss_.has_value(); });
}

// One thread at a time waits for the workers, who wake one. The others wait for that thread.
template <class IsOver>
bool PoolCore::wait_until(Guard& guard, std::uint64_t awaited, std::chrono::milliseconds limit,
                          IsOver is_over) {
  if (is_over()) return true;
  const auto deadline = Deadline::after(limit);
  while (true) {
    if (is_watched_) {
      wait_for_watcher(guard, deadline);
    } else {
      watch_once(guard, awaited, deadline, is_over);
    }
    if (is_over()) return true;
    if (deadline.has_passed()) return false;
  }
}

void PoolCore::watch_once(Guard& guard, std::uint64_t awaited, const Deadline& deadline,
                          const std::function<bool()>& is_over) {
  const auto& events = memory_->channel()->events();
  const auto seen = events.done_count();
  collect();
  look_after_workers();  // also for those that never sleep here
  if (is_over() || deadline.has_passed()) return;
  is_watched_ = true;
  watches_any_ = others_ > 0 || awaited == PoolEvents::kAnyTask;
  const auto sequence = watches_any_ ? PoolEvents::kAnyTask : awaited;
  guard.unlock();
  events.wait_for_done(seen, sequence, deadline.remaining());
  guard.lock();
  is_watched_ = false;
  collect();
  look_after_workers();
  if (others_ > 0) {
    turns_.fetch_add(1, std::memory_order_release);
    native::futex_wake_all(turns_);
  }
}

void PoolCore::wait_for_watcher(Guard& guard, const Deadline& deadline) {
  ++others_;
  const auto turn = turns_.load(std::memory_order_acquire);
  // It may sleep for one task, which is not that of this thread.
  if (!watches_any_) memory_->channel()->events().wake_owner();
  watches_any_ = true;
  guard.unlock();
  native::futex_wait(turns_, turn,
                     std::min<std::chrono::nanoseconds>(deadline.remaining(), PoolEvents::kSlice));
  guard.lock();
  --others_;
}

void PoolCore::collect() {
  const auto& channel = *memory_->channel();
  for (std::size_t i = 0; i < used_slots_.size();) {
    const auto slot = used_slots_[i];
    if (channel.state(slot) != SlotState::Ready) {
      ++i;
      continue;
    }
    used_slots_[i] = used_slots_.back();
    used_slots_.pop_back();
    collect_slot(slot);
  }
}

void PoolCore::collect_slot(std::size_t slot) {
  auto& channel = *memory_->channel();
  auto& task = *jobs_->by_slot[slot];
  if (task.end == TaskEnd::None) {
    if (auto failure = channel.failures().first(slot)) {
      task.failure = *std::move(failure);
      conclude(task, TaskEnd::Failed);
    } else {
      try {
        if (!has_threads_) memory_->take_result(task, slot);
        conclude(task, TaskEnd::Result);
      } catch (...) {
        task.failure = current_failure(0, {});
        task.result.reset();
        task.result_blocks.clear();
        conclude(task, TaskEnd::Failed);
      }
    }
  }
  channel.release(slot);
  release(slot);
}

void PoolCore::conclude(PoolTask& task, TaskEnd end) {
  task.end = end;
  if (task.group) task.group->over.push_back(task.place);
  if (end == TaskEnd::Result) ++counts_.finished;
  if (end == TaskEnd::Failed || end == TaskEnd::Lost) ++counts_.failed;
  if (end == TaskEnd::Cancelled) ++counts_.cancelled;
}

// Here and not before: as long as the slot is claimed, a worker may read and write the arguments.
void PoolCore::release(std::size_t slot) {
  jobs_->by_slot[slot]->arguments.clear();
  retired_.push_back(std::move(jobs_->by_slot[slot]));
  free_slots_.push_back(slot);
}

void PoolCore::look_after_workers() {
  if (is_closed_ || loss_ || Clock::now() - last_look_ < kBetweenLooks) return;
  last_look_ = Clock::now();
  const auto all_stuck = watch_->find_stuck();
  for (const auto& stuck : all_stuck) {
    auto& task = jobs_->by_slot[stuck.slot];
    if (!task || task->end != TaskEnd::None) continue;
    task->failure.kind = FailureKind::NoProgress;
    task->failure.worker = stuck.worker;
    task->failure.pid = ::getpid();
    conclude(*task, TaskEnd::Failed);
  }
  loss_ = watch_->find_loss(*host_, has_work(), all_stuck.size());
  if (!loss_) return;
  // What the program is told is lost does not begin any more, should a worker be left.
  memory_->channel()->events().stop_workers();
  lose_all();
}

bool PoolCore::has_work() const {
  return std::any_of(used_slots_.begin(), used_slots_.end(), [this](std::size_t slot) {
    return jobs_->by_slot[slot]->end == TaskEnd::None;
  });
}

void PoolCore::lose_all() {
  take_back_open(TaskEnd::Lost);
  for (const auto slot : used_slots_) {
    auto& task = *jobs_->by_slot[slot];
    if (task.end == TaskEnd::None) conclude(task, TaskEnd::Lost);
  }
}

bool PoolCore::cancel(PoolTask& task) {
  Guard guard(*this);
  if (task.end != TaskEnd::None || !withdraw(task.slot, TaskEnd::Cancelled)) return false;
  std::erase(used_slots_, task.slot);
  wake_waiting();
  return true;
}

std::size_t PoolCore::cancel_all() {
  Guard guard(*this);
  const auto before = counts_.cancelled;
  take_back_open(TaskEnd::Cancelled);
  const auto count = static_cast<std::size_t>(counts_.cancelled - before);
  if (count != 0) wake_waiting();
  return count;
}

void PoolCore::take_back_open(TaskEnd end) {
  std::erase_if(used_slots_, [&](std::size_t slot) { return withdraw(slot, end); });
}

// No worker tells of what happened here.
void PoolCore::wake_waiting() {
  if (is_watched_) memory_->channel()->events().wake_owner();
  turns_.fetch_add(1, std::memory_order_release);
  if (others_ > 0) native::futex_wake_all(turns_);
}

bool PoolCore::withdraw(std::size_t slot, TaskEnd end) {
  if (!memory_->channel()->take_back(slot)) return false;
  if (auto& task = *jobs_->by_slot[slot]; task.end == TaskEnd::None) conclude(task, end);
  release(slot);
  return true;
}

void PoolCore::refuse_tasks() {
  const Guard guard(*this);
  is_refusing_ = true;
  wake_waiting();
}

void PoolCore::close() noexcept {
  if (!is_ours()) return;
  {
    Guard guard(*this);
    if (std::exchange(is_closed_, true)) return;
    is_refusing_ = true;
    collect();
    take_back_open(TaskEnd::Cancelled);
  }
  // No thread asks it anything any more.
  const bool are_over = !host_ || host_->stop();
  Guard guard(*this);
  collect();
  lose_all();
  if (are_over) {
    for (const auto slot : used_slots_) release(slot);
    used_slots_.clear();
  }
  memory_->close();
  wake_waiting();
}

PoolCore::Counts PoolCore::counts() {
  Guard guard(*this);
  collect();
  look_after_workers();
  auto counts = counts_;
  counts.workers = is_closed_ || loss_ ? 0 : watch_->workers_left();
  for (const auto slot : used_slots_) {
    if (jobs_->by_slot[slot]->end != TaskEnd::None) continue;  // lost, or at a stuck thread
    const bool is_running = memory_->channel()->claimer(slot).has_value();
    ++(is_running ? counts.running : counts.waiting);
  }
  return counts;
}

std::uint64_t PoolCore::restarts() const {
  std::uint64_t count = 0;
  for (const auto& worker : memory_->channel()->table().workers) {
    count += worker.restarts.load(std::memory_order_relaxed);
  }
  return count;
}

std::optional<PoolLoss> PoolCore::loss() {
  const Guard guard(*this);
  return loss_;
}

}  // namespace lockstep::workers
