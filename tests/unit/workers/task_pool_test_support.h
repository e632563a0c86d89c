// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/workers/task_pool.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <ostream>
#include <thread>

namespace lockstep::testing {

/// A word that the processes of a test share; made before the pool.
class Flag {
 public:
  Flag()
      : word_(static_cast<std::atomic<int>*>(::mmap(nullptr, sizeof(std::atomic<int>),
                                                    PROT_READ | PROT_WRITE,
                                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Flag() { ::munmap(static_cast<void*>(word_), sizeof(std::atomic<int>)); }
  Flag(const Flag&) = delete;
  Flag& operator=(const Flag&) = delete;

  [[nodiscard]] std::atomic<int>& value() const { return *word_; }
  /// The same address in all processes; a number, which no pool takes for a pointer.
  [[nodiscard]] std::uintptr_t handle() const { return reinterpret_cast<std::uintptr_t>(word_); }
  static std::atomic<int>& at(std::uintptr_t handle) {
    return *reinterpret_cast<std::atomic<int>*>(handle);
  }
  void wait_for(int value) const {
    while (word_->load() < value) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  std::atomic<int>* word_;
};

inline int wait_until_set(std::uintptr_t begun, std::uintptr_t released) {
  ++Flag::at(begun);
  while (Flag::at(released) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return 1;
}

inline int twice(int value) {
  return 2 * value;
}

struct Case {
  WorkerKind kind;
  std::int64_t workers;
};

inline void PrintTo(const Case& given, std::ostream* stream) {
  *stream << (given.kind == WorkerKind::Process ? "processes " : "threads ") << given.workers;
}

class TaskPoolTest : public ::testing::TestWithParam<Case> {
 protected:
  static TaskPoolOptions options() {
    return TaskPoolOptions().workers(GetParam().workers).kind(GetParam().kind);
  }
  static bool has_processes() { return GetParam().kind == WorkerKind::Process; }
};

class TaskPoolProcesses : public ::testing::TestWithParam<std::int64_t> {
 protected:
  static TaskPoolOptions options() { return TaskPoolOptions().workers(GetParam()); }
};

}  // namespace lockstep::testing
