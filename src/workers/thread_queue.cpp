// SPDX-License-Identifier: BSD-3-Clause
#include "workers/thread_queue.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <utility>

#include "concurrency/deadline.h"
#include "native/posix/futex.h"
#include "workers/exception_text.h"

namespace lockstep::workers {
namespace {

// A wake-up that is lost costs this much and no more.
constexpr std::chrono::milliseconds kLongestSleep{100};

void count_up(std::atomic<std::uint32_t>& word) {
  word.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(word);
}

// Their signals are the program's business.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

// Shared by the threads themselves: one that is stuck outlives the queue.
struct ThreadQueue::Shared {
  struct Call {
    std::string name;
    std::function<void()> call;
  };

  std::atomic<std::uint32_t> work{0};  // futex of the threads: changes with each call, and the end
  std::atomic<std::uint32_t> over{0};  // futex of those that wait: changes when a call is taken, or
                                       // over, or a thread ends
  std::mutex mutex;                    // guards what follows
  std::size_t capacity = 0;
  std::deque<Call> calls;
  std::vector<std::string> running;
  std::optional<Failed> failed;
  Counts counts;
  bool is_refusing = false;
  bool is_over = false;
  std::size_t threads = 0;  // that have not ended
};

ThreadQueue::ThreadQueue(std::size_t threads, std::size_t capacity)
    : shared_(std::make_shared<Shared>()) {
  shared_->capacity = capacity;
  try {
    start_all(threads);
  } catch (...) {
    stop();
    throw;
  }
}

void ThreadQueue::start_all(std::size_t threads) {
  const SignalsBlocked blocked;
  threads_.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    threads_.emplace_back([shared = shared_] { serve(*shared); });
    ::pthread_setname_np(threads_.back().native_handle(), "lockstep-tasks");
    const std::lock_guard guard(shared_->mutex);
    ++shared_->threads;
  }
}

void ThreadQueue::serve(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  while (true) {
    const auto seen = shared.work.load(std::memory_order_acquire);
    if (shared.is_over) break;
    if (shared.calls.empty()) {
      lock.unlock();
      native::futex_wait(shared.work, seen, kLongestSleep);
      lock.lock();
      continue;
    }
    auto call = std::move(shared.calls.front());
    shared.calls.pop_front();
    shared.running.push_back(call.name);
    lock.unlock();
    count_up(shared.over);  // there is room
    std::optional<Failed> failed;
    try {
      call.call();
    } catch (...) {
      failed = Failed{call.name, current_exception_type(), current_exception_text(),
                      std::current_exception(), 0};
    }
    call.call = nullptr;  // what it has is the program's: not under the lock
    lock.lock();
    shared.running.erase(std::find(shared.running.begin(), shared.running.end(), call.name));
    ++(failed ? shared.counts.failed : shared.counts.finished);
    if (failed && shared.failed) {
      ++shared.failed->others;
    } else if (failed) {
      shared.failed.swap(failed);
    }
    lock.unlock();
    count_up(shared.over);
    failed.reset();
    lock.lock();
  }
  --shared.threads;
  lock.unlock();
  count_up(shared.over);
}

ThreadQueue::Pushed ThreadQueue::push(std::string name, std::function<void()> call,
                                      std::chrono::milliseconds limit) {
  const auto deadline = Deadline::after(limit);
  std::unique_lock lock(shared_->mutex);
  while (true) {
    const auto seen = shared_->over.load(std::memory_order_acquire);
    if (shared_->is_refusing) return Pushed::Closed;
    if (shared_->calls.size() < shared_->capacity) break;
    if (deadline.has_passed()) return Pushed::Full;
    lock.unlock();
    native::futex_wait(shared_->over, seen,
                       std::min<std::chrono::nanoseconds>(deadline.remaining(), kLongestSleep));
    lock.lock();
  }
  shared_->calls.push_back({std::move(name), std::move(call)});
  ++shared_->counts.submitted;
  lock.unlock();
  shared_->work.fetch_add(1, std::memory_order_release);
  native::futex_wake_one(shared_->work);
  return Pushed::Yes;
}

std::optional<ThreadQueue::Failed> ThreadQueue::take_failure() {
  const std::lock_guard guard(shared_->mutex);
  return std::exchange(shared_->failed, std::nullopt);
}

bool ThreadQueue::drain(std::chrono::milliseconds limit) const {
  const auto deadline = Deadline::after(limit);
  std::unique_lock lock(shared_->mutex);
  while (true) {
    const auto seen = shared_->over.load(std::memory_order_acquire);
    if (shared_->calls.empty() && shared_->running.empty()) return true;
    if (deadline.has_passed()) return false;
    lock.unlock();
    native::futex_wait(shared_->over, seen,
                       std::min<std::chrono::nanoseconds>(deadline.remaining(), kLongestSleep));
    lock.lock();
  }
}

void ThreadQueue::refuse_calls() {
  {
    const std::lock_guard guard(shared_->mutex);
    shared_->is_refusing = true;
  }
  count_up(shared_->over);
}

std::vector<std::string> ThreadQueue::unfinished() const {
  const std::lock_guard guard(shared_->mutex);
  auto names = shared_->running;
  for (const auto& call : shared_->calls) names.push_back(call.name);
  return names;
}

ThreadQueue::Counts ThreadQueue::counts() const {
  const std::lock_guard guard(shared_->mutex);
  auto counts = shared_->counts;
  counts.waiting = shared_->calls.size();
  counts.running = shared_->running.size();
  return counts;
}

ThreadQueue::~ThreadQueue() {
  if (is_ours()) {
    stop();
  } else {
    // The threads are not here, and the lock may be held for ever.
    native::leave_alone(std::move(threads_));
    native::leave_alone(std::move(shared_));
  }
}

void ThreadQueue::stop() noexcept {
  std::deque<Shared::Call> dropped;  // destroyed without the lock
  {
    const std::lock_guard guard(shared_->mutex);
    shared_->is_refusing = shared_->is_over = true;
    dropped.swap(shared_->calls);
  }
  count_up(shared_->work);
  const auto deadline = Deadline::after(kPatience);
  while (true) {
    const auto seen = shared_->over.load(std::memory_order_acquire);
    {
      const std::lock_guard guard(shared_->mutex);
      if (shared_->threads == 0) break;
    }
    if (deadline.has_passed()) return native::leave_alone(std::move(threads_));
    native::futex_wait(shared_->over, seen, kLongestSleep);
  }
  for (auto& thread : threads_) thread.join();
}

}  // namespace lockstep::workers
