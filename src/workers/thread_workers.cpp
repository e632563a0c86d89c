// SPDX-License-Identifier: BSD-3-Clause
#include "workers/thread_workers.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "concurrency/waited_time.h"
#include "native/posix/futex.h"
#include "workers/run_worker.h"

namespace lockstep::workers {
namespace {

constexpr std::chrono::milliseconds kLook{100};

}  // namespace

// Shared by the threads themselves: one that is stuck outlives the host.
struct ThreadWorkers::Threads {
  WorkerProgram program;
  std::atomic<std::uint32_t> running{0};
  std::vector<std::thread> threads;
};

ThreadWorkers::ThreadWorkers(const WorkerTable& table, const WorkerProgram& program)
    : table_(table), threads_(std::make_shared<Threads>()) {
  threads_->program = program;
  try {
    start_all();
  } catch (...) {
    threads_->running.fetch_sub(1, std::memory_order_relaxed);  // the one that is not there
    stop();
    throw;
  }
}

void ThreadWorkers::start_all() {
  for (std::size_t worker = 0; worker < table_.workers.size(); ++worker) {
    threads_->running.fetch_add(1, std::memory_order_relaxed);
    threads_->threads.emplace_back([table = table_, worker, shared = threads_] {
      WorkerRecord& record = table.workers[worker];
      if (run_worker(record, shared->program, worker) != 0) {
        record.wait_status.store(1 << 8, std::memory_order_relaxed);  // as a process with status 1
        record.state.store(WorkerState::GivenUp, std::memory_order_release);
        table.events.wake_owner();
      }
      if (shared->running.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        native::futex_wake_all(shared->running);
      }
    });
  }
}

ThreadWorkers::~ThreadWorkers() {
  if (!has_stopped_) stop();
}

bool ThreadWorkers::stop() noexcept {
  has_stopped_ = true;
  // There are no threads in a process that the program forked.
  if (!owner_.is_current()) {
    for (auto& thread : threads_->threads) thread.detach();
    threads_->threads.clear();
    return true;
  }
  table_.events.stop_workers();
  WaitedTime waited(2 * kLook);
  std::uint32_t running = 0;
  while ((running = threads_->running.load(std::memory_order_acquire)) != 0 &&
         waited.look() < threads_->program.end_timeout) {
    native::futex_wait(threads_->running, running, kLook);
  }
  for (auto& thread : threads_->threads) {
    if (running == 0) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  threads_->threads.clear();
  return running == 0;
}

}  // namespace lockstep::workers
