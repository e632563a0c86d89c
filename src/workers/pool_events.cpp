// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_events.h"

#include <algorithm>

#include "native/posix/futex.h"

namespace lockstep::workers {

void PoolEvents::stop_workers() const {
  words_->stop.store(1, std::memory_order_release);
  wake_all_workers();
}

bool PoolEvents::is_stopping() const {
  return words_->stop.load(std::memory_order_acquire) != 0;
}

std::uint32_t PoolEvents::work_count() const {
  return words_->work.load(std::memory_order_acquire);
}

void PoolEvents::wait_for_work(WorkerRecord& worker, std::uint32_t seen) const {
  // In this order, so that a death in between leaves the count too large and never too small.
  words_->sleepers.fetch_add(1, std::memory_order_seq_cst);
  worker.sleeps.store(1, std::memory_order_relaxed);
  if (words_->work.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(words_->work, seen, kSlice);
  }
  worker.sleeps.store(0, std::memory_order_relaxed);
  words_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

bool PoolEvents::has_sleepers() const {
  return words_->sleepers.load(std::memory_order_seq_cst) != 0;
}

void PoolEvents::wake_workers() const {
  words_->work.fetch_add(1, std::memory_order_seq_cst);
  if (has_sleepers()) native::futex_wake_all(words_->work);
}

void PoolEvents::wake_worker() const {
  words_->work.fetch_add(1, std::memory_order_seq_cst);
  if (has_sleepers()) native::futex_wake_one(words_->work);
}

void PoolEvents::wake_all_workers() const {
  words_->work.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(words_->work);
}

void PoolEvents::forget_sleeper(WorkerRecord& worker) const {
  if (worker.sleeps.exchange(0, std::memory_order_relaxed) == 0) return;
  words_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

std::uint32_t PoolEvents::done_count() const {
  return words_->done.load(std::memory_order_acquire);
}

void PoolEvents::wait_for_done(std::uint32_t seen, std::uint64_t sequence,
                               std::chrono::nanoseconds limit) const {
  // Whoever finishes the task later sees this, or counts `done` up before the futex looks at it.
  words_->awaited.store(sequence + 1, std::memory_order_seq_cst);
  if (words_->done.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(words_->done, seen, std::min<std::chrono::nanoseconds>(limit, kSlice));
  }
  words_->awaited.store(PoolEventWords::kNobodyWaits, std::memory_order_relaxed);
}

void PoolEvents::announce_done(std::uint64_t sequence) const {
  words_->done.fetch_add(1, std::memory_order_seq_cst);
  const auto awaited = words_->awaited.load(std::memory_order_seq_cst);
  if (awaited == sequence + 1 || awaited == PoolEventWords::kAny) {
    native::futex_wake_all(words_->done);
  }
}

void PoolEvents::wake_owner() const {
  words_->done.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(words_->done);
}

}  // namespace lockstep::workers
