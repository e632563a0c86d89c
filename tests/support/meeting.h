// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace lockstep::testing {

/// How long anything may take that must come: nothing here depends on an idle machine.
constexpr std::chrono::seconds kTestPatience{60};

/// Where ranks that are threads wait for each other beside their group, with a limit: when one of
/// them has failed, the others fail too, instead of waiting until the whole test is ended.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks) {}

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
      throw std::runtime_error("a rank did not come to the meeting of this test");
    }
  }

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  int round_ = 0;
};

/// What one thread waits for until others have said it, this many of them; with a limit.
class Signal {
 public:
  explicit Signal(int times = 1) : missing_(times) {}

  void give() {
    const std::lock_guard lock(mutex_);
    --missing_;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kTestPatience, [&] { return missing_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int missing_;
};

/// Gives a signal when its scope ends, in whatever way.
class SignalAtEnd {
 public:
  explicit SignalAtEnd(Signal& signal) : signal_(signal) {}
  ~SignalAtEnd() { signal_.give(); }
  SignalAtEnd(const SignalAtEnd&) = delete;
  SignalAtEnd& operator=(const SignalAtEnd&) = delete;

 private:
  Signal& signal_;
};

/// Whether something comes to be true soon.
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
