// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/worker_setup.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/loader/batch_worker.h"
#include "data/loader/shared_layout.h"
#include "data/loader/spawned_worker.h"
#include "workers/forked_workers.h"
#include "workers/thread_workers.h"

namespace lockstep::data::detail {
namespace {

using workers::TaskChannel;

// Slots beyond those that are being filled: what a training step holds until its backward pass is
// over.
constexpr std::size_t kSpareSlots = 3;
// A program may take this long to come to maybe_worker_main.
constexpr std::chrono::milliseconds kProgramStart{120'000};

workers::Poison poison_of(const DataLoaderOptions& options, const WorkerJob& job) {
  // What a stream would have given next is not a sample that could be left out.
  if (job.is_iterable() || options.on_poison_sample() == PoisonPolicy::Error) {
    return workers::Poison::Fails;
  }
  return options.on_poison_sample() == PoisonPolicy::Skip ? workers::Poison::IsLeftOut
                                                          : workers::Poison::IsReplaced;
}

// A dataset need not be safe to use in several threads: each has its own, where it can be copied.
std::vector<std::shared_ptr<WorkerJob>> job_of_each_worker(const std::shared_ptr<WorkerJob>& job) {
  std::vector<std::shared_ptr<WorkerJob>> jobs(job->channel->workers(), job);
  if (job->is_own_process || !job->source.copy) return jobs;
  for (auto& own : jobs) {
    own = std::make_shared<WorkerJob>(*job);
    own->source = job->source.copy();
  }
  return jobs;
}

workers::WorkerProgram program_of(const std::shared_ptr<WorkerJob>& job,
                                  const DataLoaderOptions& options) {
  workers::WorkerProgram program;
  if (options.kind() == WorkerKind::Spawn) {
    program.run = [channel = job->channel](std::size_t worker) {
      become_worker(*channel, channel->region().descriptor(), worker);
    };
  } else {
    program.run = [jobs = job_of_each_worker(job)](std::size_t worker) {
      BatchWorker(*jobs[worker], worker).run();
    };
  }
  program.start_timeout = start_timeout_of(options);
  program.repair = [channel = job->channel, poison = poison_of(options, *job)](std::size_t worker) {
    channel->repair(worker, poison);
    auto& turn = SharedLayout::of(*channel).turn;
    auto publishing = SharedLayout::kPublishing | worker;
    turn.compare_exchange_strong(publishing, SharedLayout::kNobody);
  };
  program.keep_descriptors = {job->channel->region().descriptor()};
  program.timeout = options.timeout();
  // A thread that ends waits for what it has under way, beside the item that it is at.
  if (job->is_async()) program.end_timeout += BatchWorker::kPendingPatience;
  program.memory_limit = static_cast<std::size_t>(options.worker_memory_limit());
  return program;
}

}  // namespace

std::chrono::milliseconds start_timeout_of(const DataLoaderOptions& options) {
  if (options.kind() != WorkerKind::Spawn) return options.timeout();
  return std::max(options.timeout(), kProgramStart);
}

std::shared_ptr<WorkerJob> make_job(SampleSource source, const BatchFacts& facts,
                                    const DataLoaderOptions& options) {
  auto job = std::make_shared<WorkerJob>();
  job->source = std::move(source);
  job->facts = facts;
  job->seed = options.seed();
  job->init = options.worker_init();
  job->cpus = options.worker_cpus();
  job->is_own_process = options.kind() != WorkerKind::Thread;
  std::string spawned;
  if (options.kind() == WorkerKind::Spawn) {
    spawned = describe_job(*job, options.spawn_name(), options.spawn_config());
  }
  const auto workers = static_cast<std::size_t>(options.workers());
  const auto slots = workers * static_cast<std::size_t>(options.prefetch_batches()) + kSpareSlots;
  job->channel = std::make_shared<TaskChannel>(workers::ChannelShape{
      slots, workers, facts.largest_batch, SharedLayout::bytes_for(workers, spawned.size()),
      !job->source.has_rows && !job->is_iterable() && workers > 1});
  auto* common = std::construct_at(&SharedLayout::of(*job->channel));
  common->job_bytes = spawned.size();
  std::uninitialized_value_construct_n(SharedLayout::counts(*job->channel).data(), workers);
  std::memcpy(SharedLayout::job(*job->channel), spawned.data(), spawned.size());
  return job;
}

std::unique_ptr<workers::WorkerHost> start_workers(const std::shared_ptr<WorkerJob>& job,
                                                   const DataLoaderOptions& options) {
  const auto program = program_of(job, options);
  if (options.kind() == WorkerKind::Thread) {
    return std::make_unique<workers::ThreadWorkers>(job->channel->table(), program);
  }
  return std::make_unique<workers::ForkedWorkers>(job->channel->table(), program);
}

}  // namespace lockstep::data::detail
