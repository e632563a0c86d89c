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
#include "native/posix/thread_clock.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;

constexpr std::chrono::milliseconds kClockInterval{100};

std::uint64_t nanoseconds(std::chrono::steady_clock::duration time) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(time).count());
}

}  // namespace

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
  record.state.store(workers::WorkerState::Running, std::memory_order_release);
  since_ = clocks_read_ = Clock::now();
  while (const auto claim = channel_.claim(worker_)) {
    count_idle();
    work(*claim);
    count_busy();
  }
}

void BatchWorker::work(const Claim& claim) {
  std::size_t at = 0;
  try {
    const bool is_still_ours =
        job_.source.has_rows ? rows_.fill(claim, at) : batches_.build(claim, at);
    if (!is_still_ours) return channel_.end_item(worker_);
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
