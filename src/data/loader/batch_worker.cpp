// SPDX-License-Identifier: BSD-3-Clause
// Step 5 of a sample's path, in a worker: it claims samples. Before it: task_channel
// brought the indices. After it: row_writer has each sample written into the slot of its batch, or
// collated_batches makes the batch as a whole.
#include "data/loader/batch_worker.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/claimed_places.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_policy.h"
#include "data/loader/shared_layout.h"
#include "native/posix/thread_clock.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;
using workers::CurrentItem;

constexpr std::chrono::milliseconds kClockInterval{100};
constexpr std::chrono::milliseconds kNoPendingPatience{0};

std::uint64_t nanoseconds(std::chrono::steady_clock::duration time) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(time).count());
}

}  // namespace

// What is under way ends with the process; a thread's belongs to the program.
BatchWorker::BatchWorker(const WorkerJob& job, std::size_t worker)
    : pending_(job.is_async() ? std::make_unique<PendingSamples>(
                                    job.source, job.facts.in_flight, job.facts.timeout,
                                    job.is_own_process ? kNoPendingPatience : kPendingPatience,
                                    SharedLayout::counts(*job.channel)[worker])
                              : nullptr),
      own_job_(pending_ ? std::optional(job) : std::nullopt),
      job_(own_job_ ? *own_job_ : job),
      channel_(*job.channel),
      worker_(worker),
      upcoming_(channel_, worker,
                pending_ ? UpcomingTasks::Whose::Own : UpcomingTasks::Whose::Shared),
      memory_(channel_, worker),
      rows_(job_, worker, memory_),
      batches_(job_, worker, memory_) {
  if (job.facts.read_ahead != 0 && !pending_) {
    read_ahead_.emplace(job.source, job.facts.read_ahead, SharedLayout::counts(channel_)[worker]);
  }
  if (!pending_) return;
  own_job_->source = pending_->source();
  const auto tell = [this](std::size_t most, const UseUpcoming& use) { tell_pending(most, use); };
  pending_->use(tell, [this] { return keeps_waiting(); });
}

void BatchWorker::run() {
  // A thread pool that the rank had started does not exist after a fork; with one thread it is
  // never asked for. Not in the fork server: the call may start a thread, and who forks must have
  // one only.
  if (job_.is_own_process) at::set_num_threads(1);
  if (!job_.cpus.empty()) native::pin_to_cpu(job_.cpus[worker_ % job_.cpus.size()]);
  const at::NoGradGuard no_grad;
  auto& record = channel_.table().workers[worker_];
  try {
    if (job_.init) job_.init(worker_);
  } catch (...) {
    throw std::runtime_error("worker_init failed: " + current_exception_message());
  }
  // Not before that: a seed that the program's function sets is not a sample's.
  using Seeds = SampleGenerator::ManualSeed;
  SampleGenerator generator(job_.is_own_process ? Seeds::Followed : Seeds::Ignored);
  const SampleGenerator::Use draws(generator);
  // The one before may have ended at a sample that was to come, and this one passes it first.
  if (record.restarts.load(std::memory_order_relaxed) != 0) {
    careful_claims_ = pending_ ? channel_.slots() : job_.facts.read_ahead;
  }
  record.state.store(workers::WorkerState::Running, std::memory_order_release);
  since_ = clocks_read_ = Clock::now();
  while (const auto claim = channel_.claim(worker_)) {
    count_idle();
    claim_ = &*claim;
    if (read_ahead_ || pending_) look_ahead(*claim);
    work(*claim);
    if (careful_claims_ != 0) --careful_claims_;
    count_busy();
  }
}

void BatchWorker::work(const Claim& claim) {
  std::size_t at = 0;
  try {
    const bool is_still_ours =
        job_.source.has_rows ? rows_.fill(claim, at) : batches_.build(claim, at);
    if (!is_still_ours) return channel_.end_item(worker_);
  } catch (const SampleNotWanted&) {  // as what is futile
  } catch (...) {
    const auto place = claim.first + std::min(at, claim.items.size() - 1);
    channel_.fail(claim, ClaimedPlaces::current_failure(worker_, place));
    channel_.end_item(worker_);
    return;
  }
  channel_.end_item(worker_);
  // What was broken off is not finished.
  if (!channel_.events().is_stopping()) channel_.finish(claim);
}

// Runs the dataset's code, which may end or keep this worker: that counts for the batch, and for
// none of its samples. Of a collate task, nothing is left to be fetched.
void BatchWorker::look_ahead(const Claim& claim) {
  auto& current = channel_.table().workers[worker_].current_item;
  current.store(CurrentItem{claim.slot, CurrentItem::kNoItem}.word(), std::memory_order_release);
  const auto sequence = channel_.sequence(claim.slot);
  if (pending_) pending_->forget_before(place_word(sequence, 0));
  if (read_ahead_ && careful_claims_ == 0 && read_ahead_->is_due()) {
    const auto next = claim.is_collate ? claim.items.size() : claim.first + 1;
    read_ahead_->look(place_word(sequence, next),
                      [&](std::size_t skip, std::size_t most, const UseUpcoming& use) {
                        upcoming_.tell(claim.slot, next, skip, most, use);
                      });
  }
  current.store(CurrentItem::kNothing, std::memory_order_release);
}

// What comes from the sample on that this worker is at. Whatever `get_async` does to the worker is
// booked on the sample that it begins. Of those in later batches only the batch can be told here:
// the next worker begins them at their batch's turn.
void BatchWorker::tell_pending(std::size_t most, const UseUpcoming& use) {
  const auto slot = claim_->slot;
  const auto batch = channel_.sequence(slot);
  const auto& record = channel_.table().workers[worker_];
  const auto current = CurrentItem::of(record.current_item.load(std::memory_order_relaxed));
  const auto now = current && current->position < claim_->items.size() ? current->position : 0;
  upcoming_.tell(slot, now, 0, most, [&](std::int64_t index, std::uint64_t place) {
    const bool is_of_batch = batch_of_place(place) == batch;
    if (!is_of_batch && careful_claims_ != 0) return false;
    channel_.begin_item(worker_, slot, is_of_batch ? place_in_batch(place) : CurrentItem::kNoItem);
    return use(index, place);
  });
  channel_.begin_item(worker_, slot, now);
}

// While a sample of `get_async` is waited for. That is a sign of life: how long it may take is
// known here.
bool BatchWorker::keeps_waiting() {
  auto& heartbeats = channel_.table().workers[worker_].heartbeats;
  heartbeats.store(heartbeats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return !channel_.events().is_stopping() && !channel_.is_futile(*claim_);
}

void BatchWorker::count_idle() {
  const auto now = Clock::now();
  auto& idle = channel_.table().workers[worker_].idle;
  idle.store(idle.load(std::memory_order_relaxed) + nanoseconds(now - since_),
             std::memory_order_relaxed);
  since_ = now;
}

void BatchWorker::count_busy() {
  const auto now = Clock::now();
  auto& record = channel_.table().workers[worker_];
  record.busy.store(record.busy.load(std::memory_order_relaxed) + nanoseconds(now - since_),
                    std::memory_order_relaxed);
  since_ = now;
  if (now - clocks_read_ < kClockInterval) return;  // asking costs system calls
  clocks_read_ = now;
  const auto clock = native::thread_clock();
  record.on_cpu.store(record.on_cpu.load(std::memory_order_relaxed) + clock.on_cpu -
                          std::exchange(on_cpu_, clock.on_cpu),
                      std::memory_order_relaxed);
  record.delayed.store(record.delayed.load(std::memory_order_relaxed) + clock.delayed -
                           std::exchange(delayed_, clock.delayed),
                       std::memory_order_relaxed);
}

}  // namespace lockstep::data::detail
