// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_jobs.h"

#include <algorithm>
#include <optional>

namespace lockstep::workers {

void PoolJobs::run_thread(TaskChannel& channel, std::size_t worker,
                          const ExceptionText& text) const {
  while (const auto claim = channel.claim(worker)) {
    channel.begin_item(worker, claim->slot, 0);
    const auto task = by_slot[claim->slot];
    std::optional<Failure> failure;
    try {
      task->run();
    } catch (...) {
      failure = current_failure(worker, text);
    }
    // In this order: afterwards the slot is another task's, which this thread is not at.
    channel.end_item(worker);
    failure ? channel.fail(*claim, *failure) : channel.finish(*claim);
  }
}

WorkerProgram program_of(const PoolPlan& plan, const std::shared_ptr<PoolMemory>& memory,
                         const std::shared_ptr<PoolJobs>& jobs, std::chrono::milliseconds timeout) {
  WorkerProgram program;
  program.run = [memory, jobs, start = plan.start, function = plan.function, text = plan.text,
                 may_repeat = plan.attempts > 1](std::size_t worker) {
    if (start) start(worker);
    memory->channel()->table().workers[worker].state.store(WorkerState::Running,
                                                           std::memory_order_release);
    if (jobs) {
      jobs->run_thread(*memory->channel(), worker, text);
    } else {
      PoolWorker(memory, worker, may_repeat).run(function, text);
    }
  };
  program.repair = [memory, attempts = plan.attempts](std::size_t worker) {
    memory->blocks().repair(worker);
    memory->channel()->repair(worker, Poison::Fails, attempts);
  };
  program.keep_descriptors = {memory->channel()->region().descriptor()};
  program.timeout = timeout;
  program.start_timeout = std::max(timeout, program.start_timeout);
  return program;
}

}  // namespace lockstep::workers
