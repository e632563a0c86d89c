// SPDX-License-Identifier: BSD-3-Clause
// What the rank makes of workers that fail, end or stand still, and what it knows of their time.
#include <chrono>
#include <sstream>
#include <string>
#include <utility>

#include "data/loader/worker_failure.h"
#include "data/loader/worker_source.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {

using workers::SlotState;
using workers::WorkerState;

void WorkerSource::give_up_batch(std::optional<std::size_t> slot, WorkerError::Context context) {
  context.batch = static_cast<std::int64_t>(slot ? slots_[*slot].batch : next_);
  if (slot) {
    // Where all samples were there, only the batch could not be made of them.
    const auto result = StreamResult::of(channel_->result(*slot));
    if (job_->source.open && result.samples != facts_.batch_size) {
      round_.end(slots_[*slot].turn.shard, slots_[*slot].turn.batch);
    }
    slots_[*slot].use = Use::Stale;
  } else if (now_.assigned == next_) {
    ++now_.assigned;  // passed over without ever having had a slot
    if (job_->source.open) round_.start(0);
  }
  ++next_;
  ++statistics_.lost_batches;
  name_sample(context, job_->source);
  throw WorkerError(std::move(context));
}

void WorkerSource::check_failed(std::size_t slot) {
  const auto failure = channel_->failure(slot);
  if (!failure) return;
  auto context = context_of(*failure, timeout_);
  if (!job_->source.open) {
    context.sample = workers::item_of(channel_->item(slot, failure->position));
  }
  give_up_batch(slot, std::move(context));
}

// How many samples the batch holds; those that are missing, or are others', are counted.
std::size_t WorkerSource::count_samples(std::size_t slot) {
  auto samples = channel_->items(slot).size();
  std::size_t skipped = 0;
  if (job_->source.open) {
    const auto result = StreamResult::of(channel_->result(slot));
    samples = result.samples;
    skipped = result.thrown;
  } else if (may_leave_out_) {
    skipped = samples - rows_of(slot).size();
    samples -= skipped;
  }
  const auto replaced = channel_->replaced(slot);
  statistics_.skipped_samples += skipped;
  statistics_.replaced_samples += replaced;
  if (skipped + replaced != 0) warn_of_missing(slot);
  return samples;
}

void WorkerSource::warn_of_missing(std::size_t slot) {
  if (!missing_.is_due()) return;
  const auto noted = channel_->noted(slot);
  if (!noted) return;  // by on_poison_sample
  MissingSample missing;
  if (!job_->source.open) missing.index = noted->item;
  missing.exception_type = noted->type;
  missing.message = noted->message;
  missing_.give(job_->source, on_failed_sample_, missing);
}

// Whether nobody is left who could build the batch in that slot, or any.
bool WorkerSource::is_lost_to_all(std::optional<std::size_t> slot) const {
  for (std::size_t worker = 0; worker < workers_; ++worker) {
    // A shard belongs to one worker.
    const bool may_help =
        !job_->source.open || !slot || slots_[*slot].turn.shard % workers_ == worker;
    if (may_help && !is_lost(worker)) return false;
  }
  return true;
}

bool WorkerSource::is_lost(std::size_t worker) const {
  const auto state = channel_->board().workers[worker].state.load(std::memory_order_acquire);
  return state == WorkerState::GivenUp || state == WorkerState::StartFailed;
}

// A worker that is not replaced is reported once, and the others go on.
void WorkerSource::check_workers() {
  std::optional<std::size_t> fresh;
  bool is_anyone_left = false;
  for (std::size_t worker = 0; worker < workers_; ++worker) {
    if (!is_lost(worker)) {
      is_anyone_left = true;
    } else if (!reported_[worker]) {
      fresh = worker;
    }
  }
  if (!fresh || !is_anyone_left) return;  // without any, each batch is an error
  reported_[*fresh] = true;
  throw WorkerError(end_of(channel_->board().workers[*fresh], *fresh, start_timeout_));
}

void WorkerSource::check_anyone_left(std::optional<std::size_t> slot) {
  const auto supervisor = host_->supervisor_status();
  supervisor_is_dead_ = supervisor_is_dead_ || supervisor.has_value();
  if (!supervisor_is_dead_ && !is_lost_to_all(slot)) return;
  if (slot && channel_->state(*slot) == SlotState::Ready) return;  // finished before that
  if (supervisor_is_dead_) {
    give_up_batch(slot, end_of_supervisor(host_->supervisor_pid(), *supervisor));
  }
  const auto blamed =
      slot && job_->source.open ? slots_[*slot].turn.shard % workers_ : workers_ - 1;
  auto context = end_of(channel_->board().workers[blamed], blamed, start_timeout_);
  context.message += ", and no worker is left,";
  give_up_batch(slot, std::move(context));
}

void WorkerSource::throw_timeout(std::optional<std::size_t> slot, double seconds) {
  WorkerError::Context context;
  context.failure = WorkerFailure::TimedOut;
  std::ostringstream text;
  text << "made no progress for " << seconds << " s (DataLoaderOptions::timeout is "
       << std::chrono::duration<double>(timeout_).count() << " s)";
  context.message = std::move(text).str();
  context.pid = host_->supervisor_pid();
  name_culprit(context, slot);
  give_up_batch(slot, std::move(context));
}

// Where nobody took the batch: one that is still in worker_init, or busy with another batch.
void WorkerSource::name_culprit(WorkerError::Context& context,
                                std::optional<std::size_t> slot) const {
  const auto name = [&](std::size_t worker) {
    const auto& record = channel_->board().workers[worker];
    context.worker = static_cast<int>(worker);
    if (const auto pid = record.pid.load(std::memory_order_relaxed); pid != 0) context.pid = pid;
    const auto in_hand = record.in_hand.load(std::memory_order_acquire);
    if (in_hand == workers::WorkerRecord::kNothing || job_->source.open) return;
    const auto items = channel_->items(static_cast<std::size_t>(in_hand >> 32) - 1);
    const auto position = static_cast<std::size_t>(in_hand & 0xffff'ffffU);
    if (position < items.size()) context.sample = workers::item_of(items[position]);
  };
  if (slot) {
    if (const auto worker = channel_->claimer(*slot)) return name(*worker);
  }
  for (const bool starting : {true, false}) {
    for (std::size_t worker = 0; worker < workers_; ++worker) {
      const auto& record = channel_->board().workers[worker];
      const bool is_busy = starting ? record.state.load() == WorkerState::Starting
                                    : record.in_hand.load() != workers::WorkerRecord::kNothing;
      if (is_busy) return name(worker);
    }
  }
}

LoaderStatistics WorkerSource::statistics() const {
  auto result = statistics_;
  result.ready_depth =
      asked_ == 0 ? 0 : static_cast<double>(depth_sum_) / static_cast<double>(asked_);
  const auto seconds = [](const std::atomic<std::uint64_t>& word) {
    return static_cast<double>(word.load(std::memory_order_relaxed)) * 1e-9;
  };
  for (const auto& record : channel_->board().workers) {
    result.restarts += record.restarts.load(std::memory_order_relaxed);
    result.busy_seconds += seconds(record.busy);
    result.compute_seconds += seconds(record.on_cpu);
    result.delayed_seconds += seconds(record.delayed);
    result.idle_seconds += seconds(record.idle);
  }
  return result;
}

}  // namespace lockstep::data::detail
