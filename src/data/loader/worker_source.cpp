// SPDX-License-Identifier: BSD-3-Clause
// A sample's path in the rank, from the workers' memory to the program: batches are waited for.
// Before it: batch_scheduler gave them out, and workers built them. After it: batch_delivery makes
// tensors of what lies in a slot.
#include "data/loader/worker_source.h"

#include <c10/util/Exception.h>

#include <utility>

#include "data/loader/shared_layout.h"
#include "data/loader/worker_failure.h"
#include "data/loader/worker_setup.h"

namespace lockstep::data::detail {

using workers::SlotState;

WorkerSource::WorkerSource(SampleSource source, const BatchFacts& facts,
                           const DataLoaderOptions& options)
    : WorkerSource(make_job(std::move(source), facts, options), options) {}

WorkerSource::WorkerSource(const std::shared_ptr<WorkerJob>& job, const DataLoaderOptions& options)
    : job_(job),
      scheduler_(job, options),
      delivery_(job, options),
      monitor_(job, options, start_workers(job, options)) {}

WorkerSource::~WorkerSource() {
  if (!monitor_.stop_workers()) return;  // a thread that is stuck may still use all of it
  // Batches that are still held keep the shared memory alive. A fork's copy of it is another
  // process's.
  if (process_.is_current()) scheduler_.drop_unfinished();
  job_->channel->region().close_descriptor();
}

void WorkerSource::pin_batches(std::shared_ptr<native::HostPinning> pinning) {
  delivery_.pin_batches(std::move(pinning));
}

void WorkerSource::start(PassPlan plan) {
  scheduler_.start(std::move(plan));
  begin_pass();
}

void WorkerSource::prepare(std::function<PassPlan()> plan) {
  scheduler_.prepare(std::move(plan));
}

bool WorkerSource::start_prepared() {
  if (!scheduler_.start_prepared()) return false;
  begin_pass();
  return true;
}

void WorkerSource::begin_pass() {
  delivery_.begin_pass();
  scheduler_.move_layout_turn();
  give_out();
  job_->channel->events().wake_workers();
}

WorkerSource::Overview WorkerSource::give_out() {
  delivery_.release_finished();
  return scheduler_.give_out();
}

bool WorkerSource::has_next() {
  const bool may_be_over = job_->is_iterable() || delivery_.may_leave_out();
  if (!may_be_over) {
    if (scheduler_.expects_more()) return true;
    give_out();  // the last batch's slot is for what follows
    return false;
  }
  // Only when what was given out has come back is it known whether there is any more.
  for (;;) {
    const auto seen = give_out();
    if (!seen.next) return scheduler_.expects_more();
    if (is_given_up(seen)) return true;
    if (seen.next_is_ready) {
      if (!should_skip(*seen.next)) return true;
      continue;
    }
    await_end(*seen.next);
    // A failure is a batch too: its error is for `next`.
    if (job_->channel->state(*seen.next) == SlotState::Filling) return true;
  }
}

bool WorkerSource::is_ready() {
  for (;;) {
    const auto seen = give_out();
    if (is_given_up(seen)) return true;  // its error comes at once
    if (!seen.next_is_ready) return false;
    if (!should_skip(*seen.next)) return true;
  }
}

SampleTree WorkerSource::next() {
  // Once a pass at least: a program that never has to wait hears of lost workers, too.
  if (scheduler_.delivered() == 0) monitor_.report_ended_workers();
  auto seen = give_out();
  scheduler_.count_request(seen);
  for (;; seen = give_out()) {
    if (!seen.next) scheduler_.throw_error_of_plan();
    if (!seen.next_is_ready && !is_given_up(seen)) seen = await();
    TORCH_CHECK(seen.next, "DataLoader: there are no more batches in this epoch");
    const auto slot = *seen.next;
    if (is_given_up(seen)) lose(slot, std::exchange(given_up_, std::nullopt)->reason);
    if (auto failure = monitor_.failure_of(slot)) lose(slot, std::move(*failure));
    if (should_skip(slot) || is_given_up(seen)) continue;
    return delivery_.deliver(slot, scheduler_.hand_over(slot), seen.held);
  }
}

WorkerSource::Overview WorkerSource::await() {
  WorkerMonitor::Wait wait(monitor_);
  for (;;) {
    const auto done = job_->channel->events().done_count();
    scheduler_.move_layout_turn();
    const auto seen = give_out();
    if (!seen.next && !scheduler_.expects_more()) return seen;
    if (!seen.next) scheduler_.throw_error_of_plan();
    monitor_.report_ended_workers();
    if (seen.next_is_ready) return seen;
    if (auto reason = why_given_up(awaited(seen.next), wait)) lose(seen.next, std::move(*reason));
    wait.sleep(done, scheduler_.awaited_sequence(seen.next));
  }
}

// Until the batch is there, or no longer to be expected.
void WorkerSource::await_end(std::size_t slot) {
  WorkerMonitor::Wait wait(monitor_);
  for (;;) {
    const auto done = job_->channel->events().done_count();
    scheduler_.move_layout_turn();
    if (job_->channel->state(slot) != SlotState::Filling) return;
    const auto sequence = job_->channel->sequence(slot);
    if (auto reason = why_given_up(awaited(slot), wait)) {
      given_up_ = GivenUp{sequence, false, std::move(*reason)};
      return;
    }
    wait.sleep(done, sequence);
  }
}

std::optional<WorkerError::Context> WorkerSource::why_given_up(const AwaitedBatch& batch,
                                                               WorkerMonitor::Wait& wait) {
  auto reason = monitor_.why_nobody_builds(batch);
  if (monitor_.has_lost_supervisor()) scheduler_.stop();
  return reason ? reason : wait.why_timed_out(batch);
}

AwaitedBatch WorkerSource::awaited(std::optional<std::size_t> slot) const {
  return {slot, scheduler_.only_worker(slot)};
}

bool WorkerSource::should_skip(std::size_t slot) {
  if (job_->channel->failures().first_failed(slot)) return false;
  scheduler_.note_end_of_shard(slot);
  if (delivery_.has_samples(slot)) return false;
  try {
    delivery_.count_skipped(slot);
  } catch (...) {
    given_up_ = GivenUp{job_->channel->sequence(slot), true, context_of_exception()};
    return false;
  }
  scheduler_.skip(slot);
  return true;
}

bool WorkerSource::is_given_up(const Overview& seen) const {
  return given_up_ && seen.next && given_up_->is_there == seen.next_is_ready &&
         given_up_->sequence == job_->channel->sequence(*seen.next);
}

// The error comes at the batch's turn; the next call goes on with the next batch.
void WorkerSource::lose(std::optional<std::size_t> slot, WorkerError::Context context) {
  context.batch = static_cast<std::int64_t>(scheduler_.lose(slot));
  name_sample(context, job_->source);
  throw WorkerError(std::move(context));
}

LoaderStatistics WorkerSource::statistics() const {
  auto result = delivery_.statistics();
  scheduler_.add_to(result);
  monitor_.add_to(result);
  add_counts(SharedLayout::counts(*job_->channel), result);
  return result;
}

}  // namespace lockstep::data::detail
