// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/worker_monitor.h"

#include <algorithm>
#include <atomic>
#include <sstream>
#include <utility>

#include "data/loader/worker_failure.h"
#include "data/loader/worker_setup.h"
#include "workers/item_word.h"
#include "workers/pool_events.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {

using workers::CurrentItem;
using workers::PoolEvents;
using workers::SlotState;
using workers::WorkerState;

WorkerMonitor::WorkerMonitor(std::shared_ptr<const WorkerJob> job, const DataLoaderOptions& options,
                             std::unique_ptr<workers::WorkerHost> host)
    : job_(std::move(job)),
      channel_(*job_->channel),
      timeout_(options.timeout()),
      start_timeout_(start_timeout_of(options)),
      reported_(channel_.workers(), false),
      host_(std::move(host)) {}

bool WorkerMonitor::stop_workers() noexcept {
  const bool are_over = host_->stop();
  host_.reset();
  return are_over;
}

void WorkerMonitor::report_ended_workers() {
  std::optional<std::size_t> fresh;
  bool is_anyone_left = false;
  for (std::size_t worker = 0; worker < reported_.size(); ++worker) {
    if (!is_lost(worker)) {
      is_anyone_left = true;
    } else if (!reported_[worker]) {
      fresh = worker;
    }
  }
  if (!fresh || !is_anyone_left) return;
  reported_[*fresh] = true;
  throw WorkerError(end_of(channel_.table().workers[*fresh], *fresh, start_timeout_));
}

std::optional<WorkerError::Context> WorkerMonitor::failure_of(std::size_t slot) const {
  const auto failure = channel_.failures().first(slot);
  if (!failure) return std::nullopt;
  auto context = context_of(*failure, timeout_);
  if (!job_->is_iterable()) {
    context.sample = workers::item_of(channel_.items().at(slot, failure->position));
  }
  return context;
}

std::optional<WorkerError::Context> WorkerMonitor::why_nobody_builds(const AwaitedBatch& batch) {
  if (!supervisor_status_) supervisor_status_ = host_->supervisor_status();
  if (!supervisor_status_ && !is_lost_to_all(batch)) return std::nullopt;
  // It may have been finished before that.
  if (batch.slot && channel_.state(*batch.slot) == SlotState::Ready) return std::nullopt;
  if (supervisor_status_) return end_of_supervisor(host_->supervisor_pid(), *supervisor_status_);
  const auto blamed = batch.only_worker.value_or(channel_.workers() - 1);
  auto context = end_of(channel_.table().workers[blamed], blamed, start_timeout_);
  context.message += ", and no worker is left,";
  return context;
}

bool WorkerMonitor::is_lost_to_all(const AwaitedBatch& batch) const {
  if (batch.only_worker) return is_lost(*batch.only_worker);
  for (std::size_t worker = 0; worker < channel_.workers(); ++worker) {
    if (!is_lost(worker)) return false;
  }
  return true;
}

bool WorkerMonitor::is_lost(std::size_t worker) const {
  return job_->is_lost(worker);
}

WorkerMonitor::Wait::Wait(WorkerMonitor& monitor)
    : monitor_(monitor),
      slice_(std::min<Clock::duration>(PoolEvents::kSlice, Clock::duration(monitor.timeout_) / 4)),
      waited_(2 * slice_, start_) {}

WorkerMonitor::Wait::~Wait() {
  monitor_.stall_seconds_ += std::chrono::duration<double>(Clock::now() - start_).count();
}

std::optional<WorkerError::Context> WorkerMonitor::Wait::why_timed_out(const AwaitedBatch& batch) {
  const auto signs = monitor_.signs_of_progress(batch);
  if (std::exchange(signs_, signs) != signs) waited_.restart();
  const auto waited = waited_.look();
  if (waited <= monitor_.patience()) return std::nullopt;
  return monitor_.timeout_after(waited, batch);
}

void WorkerMonitor::Wait::sleep(std::uint32_t seen, std::uint64_t sequence) const {
  monitor_.channel_.events().wake_workers();
  monitor_.channel_.events().wait_for_done(seen, sequence, slice_);
}

// How long the rank waits for a sign of progress. The host kills what hangs; this is for when the
// host hangs, and for threads.
std::chrono::milliseconds WorkerMonitor::patience() const {
  if (!host_->replaces_workers()) return timeout_;
  const auto& workers = channel_.table().workers;
  const bool is_starting = std::any_of(workers.begin(), workers.end(), [](const auto& record) {
    return record.state.load(std::memory_order_relaxed) == WorkerState::Starting;
  });
  return 2 * (is_starting ? start_timeout_ : timeout_) + std::chrono::seconds(1);
}

std::uint64_t WorkerMonitor::signs_of_progress(const AwaitedBatch& batch) const {
  std::uint64_t signs = batch.slot ? channel_.progress(*batch.slot) : 0;
  for (const auto& record : channel_.table().workers) {
    signs += record.restarts.load(std::memory_order_relaxed);
    // A shard's samples are not counted in the slot. A thread that is still at a sample of another
    // pass is not hanging as long as it comes to an end. And a worker that waits for a sample of
    // `get_async` knows itself how long.
    if (job_->is_iterable() || job_->is_async() || !host_->replaces_workers()) {
      signs += record.heartbeats.load(std::memory_order_relaxed);
    }
  }
  return signs;
}

WorkerError::Context WorkerMonitor::timeout_after(std::chrono::duration<double> waited,
                                                  const AwaitedBatch& batch) const {
  WorkerError::Context context;
  context.failure = WorkerFailure::TimedOut;
  std::ostringstream text;
  text << "made no progress for " << waited.count() << " s (DataLoaderOptions::timeout is "
       << std::chrono::duration<double>(timeout_).count() << " s)";
  context.message = std::move(text).str();
  context.pid = host_->supervisor_pid();
  if (const auto worker = suspect(batch)) name(context, *worker);
  return context;
}

// The worker that has claimed the batch. Where none has, one that is still in worker_init, or busy
// with another batch.
std::optional<std::size_t> WorkerMonitor::suspect(const AwaitedBatch& batch) const {
  if (batch.slot) {
    if (const auto worker = channel_.claimer(*batch.slot)) return worker;
  }
  for (const bool starting : {true, false}) {
    for (std::size_t worker = 0; worker < channel_.workers(); ++worker) {
      const auto& record = channel_.table().workers[worker];
      const bool is_busy = starting ? record.state.load() == WorkerState::Starting
                                    : record.current_item.load() != CurrentItem::kNothing;
      if (is_busy) return worker;
    }
  }
  return std::nullopt;
}

void WorkerMonitor::name(WorkerError::Context& context, std::size_t worker) const {
  const auto& record = channel_.table().workers[worker];
  context.worker = static_cast<int>(worker);
  if (const auto pid = record.pid.load(std::memory_order_relaxed); pid != 0) context.pid = pid;
  const auto current = CurrentItem::of(record.current_item.load(std::memory_order_acquire));
  if (!current || job_->is_iterable()) return;
  const auto items = channel_.items().of(current->slot);
  if (current->position < items.size()) {
    context.sample = workers::item_of(items[current->position]);
  }
}

void WorkerMonitor::add_to(LoaderStatistics& statistics) const {
  const auto seconds = [](const std::atomic<std::uint64_t>& word) {
    return static_cast<double>(word.load(std::memory_order_relaxed)) * 1e-9;
  };
  statistics.stall_seconds += stall_seconds_;
  for (const auto& record : channel_.table().workers) {
    statistics.restarts += record.restarts.load(std::memory_order_relaxed);
    statistics.busy_seconds += seconds(record.busy);
    statistics.compute_seconds += seconds(record.on_cpu);
    statistics.delayed_seconds += seconds(record.delayed);
    statistics.idle_seconds += seconds(record.idle);
  }
}

}  // namespace lockstep::data::detail
