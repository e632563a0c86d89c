// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/rank_threads.h"

#include <chrono>
#include <utility>

#include "native/posix/futex.h"

namespace lockstep {
namespace {

// What is waited for comes with a wake-up; the limit only bounds what a lost one would cost.
constexpr std::chrono::seconds kLongestSleep{1};

}  // namespace

RankThreads::RankThreads(int count) {
  try {
    for (int number = 0; number < count; ++number) {
      threads_.emplace_back([this, number] { work(number); });
    }
  } catch (...) {
    stop();
    throw;
  }
}

RankThreads::~RankThreads() {
  stop();
}

void RankThreads::run(const Task& task) {
  task_ = &task;
  busy_.store(static_cast<std::uint32_t>(threads_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(round_);
  std::uint32_t busy = 0;
  while ((busy = busy_.load(std::memory_order_acquire)) != 0) {
    native::futex_wait(busy_, busy, kLongestSleep);
  }
  task_ = nullptr;
}

void RankThreads::work(int number) {
  for (std::uint32_t done = 0;; ++done) {
    while (round_.load(std::memory_order_acquire) == done) {
      native::futex_wait(round_, done, kLongestSleep);
    }
    if (is_over_) return;
    (*task_)(number);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) native::futex_wake_all(busy_);
  }
}

void RankThreads::stop() noexcept {
  if (!are_there()) {
    native::leave_alone(std::move(threads_));
    return;
  }
  is_over_ = true;
  round_.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(round_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace lockstep
