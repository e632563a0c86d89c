// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace lockstep::testing {

/// The limit of every wait for something that must happen. It is long enough for a busy machine.
constexpr std::chrono::seconds kTestPatience{60};

/// A barrier of ranks that are threads, beside their group. The wait has a limit: when one rank has
/// failed, the others fail too, instead of waiting until the whole test is ended.
class TimedBarrier {
 public:
  explicit TimedBarrier(int ranks) : ranks_(ranks) {}

  void arrive_and_wait() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    const auto have_all_come = [&] { return round_ != round; };
    if (!changed_.wait_for(lock, kTestPatience, have_all_come)) {
      throw std::runtime_error("a rank did not come to the barrier of this test");
    }
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int round_ = 0;
};

/// Threads wait until other threads have given the signal, `times` times. A wait has a limit, and
/// throws when the limit has passed: the rest of the test would make no sense.
class Signal {
 public:
  /// `what`: "until rank 0 had failed", for the error's text.
  explicit Signal(std::string what, int times = 1) : what_(std::move(what)), missing_(times) {}

  void give() {
    const std::lock_guard lock(mutex_);
    --missing_;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kTestPatience, [&] { return missing_ <= 0; })) return;
    throw std::runtime_error("this test waited for " + std::to_string(kTestPatience.count()) +
                             " s in vain, " + what_ + "; " + std::to_string(missing_) +
                             " more had to say so");
  }

 private:
  const std::string what_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int missing_;
};

/// Gives a signal when its scope ends, also by an exception.
class SignalAtEnd {
 public:
  explicit SignalAtEnd(Signal& signal) : signal_(signal) {}
  ~SignalAtEnd() { signal_.give(); }
  SignalAtEnd(const SignalAtEnd&) = delete;
  SignalAtEnd& operator=(const SignalAtEnd&) = delete;

 private:
  Signal& signal_;
};

/// Whether `what` becomes true within the limit.
inline bool happens(const std::function<bool()>& what,
                    std::chrono::milliseconds limit = kTestPatience) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!what()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace lockstep::testing
