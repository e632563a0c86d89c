// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/save_thread.h"

#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <sys/resource.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "training/checkpoint/agreement.h"
#include "training/checkpoint/retention.h"

namespace lockstep::training {
namespace {

using Clock = std::chrono::steady_clock;

// Training comes first, and a checkpoint has until the next one: a tenth of a busy core is enough
// for that. At the lowest priority of all, the next save would wait for this one.
constexpr int kNiceness = 10;
// How long a whole save may take: its files, and the wait for the others. On a busy machine, also
// a short timeout leaves the thread time to run.
constexpr int kTimeouts = 3;
constexpr std::chrono::minutes kMargin{1};

/// Of the calling thread alone.
void lower_priority() {
  ::setpriority(PRIO_PROCESS, 0, kNiceness);
}

}  // namespace

SaveThread::SaveThread(std::shared_ptr<const CheckpointFolder> folder,
                       const CheckpointerOptions& options, std::vector<CheckpointRecord> counting)
    : shared_(std::make_shared<Shared>()) {
  shared_->folder = std::move(folder);
  shared_->options = options;
  shared_->counting = std::move(counting);
}

SaveThread::~SaveThread() {
  shared_->is_over = true;
  if (!ended_.valid()) return;
  // In a fork the thread is not there, and one that is stuck never ends.
  if (!owner_.is_current() || is_stuck_ || !has_ended()) {
    native::leave_alone(std::move(running_));
    native::leave_alone(std::move(ended_));
    return;
  }
  if (!running_.valid()) return;
  const Outcome outcome = running_.get();
  if (!outcome.failure.empty()) {
    logging::warning("a checkpoint was not saved: " + outcome.failure);
  }
}

bool SaveThread::has_ended() const {
  return !ended_.valid() ||
         ended_.wait_for(shared_->options.timeout() + kMargin) == std::future_status::ready;
}

void SaveThread::start(GenerationWriter::Job job) {
  generation_ = job.generation;
  if (!has_ended()) {
    not_started_ = Outcome{generation_, 0, {}, "old checkpoints are still being removed"};
    return;
  }
  // Not std::async: its future would wait for the thread in a destructor.
  const auto kept = std::make_shared<GenerationWriter::Job>(std::move(job));
  const auto promise = std::make_shared<std::promise<Outcome>>();
  std::packaged_task<void()> task([shared = shared_, kept, promise]() mutable {
    // Whoever sees the end may be the last who has the folder, and with it its lock.
    const auto own = std::exchange(shared, nullptr);
    write(*own, std::move(*kept), *promise);
  });
  auto ended = task.get_future();
  try {
    std::thread(std::move(task)).detach();
    running_ = promise->get_future();
    ended_ = std::move(ended);
  } catch (const std::system_error& error) {
    not_started_ =
        Outcome{generation_, 0, {}, std::string("no thread can be had: ") + error.what()};
    GenerationWriter(*shared_->folder, std::move(*kept), shared_->is_over)
        .report(not_started_->failure);
  }
}

void SaveThread::forget(std::int64_t generation) {
  std::erase_if(shared_->counting,
                [&](const CheckpointRecord& record) { return record.generation == generation; });
}

std::optional<SaveThread::Outcome> SaveThread::finish() {
  if (not_started_) return std::exchange(not_started_, std::nullopt);
  if (!running_.valid()) return std::nullopt;
  const auto limit = kTimeouts * shared_->options.timeout() + kMargin;
  if (running_.wait_for(limit) != std::future_status::ready) {
    is_stuck_ = true;
    TORCH_CHECK(false, "checkpoint ", generation_, " is still being written after ",
                std::chrono::duration_cast<std::chrono::seconds>(limit).count(),
                " s; does the filesystem of ", shared_->folder->path().string(), " answer?");
  }
  is_stuck_ = false;
  return running_.get();
}

void SaveThread::write(Shared& shared, GenerationWriter::Job job, std::promise<Outcome>& promise) {
  // What is read in place must be read before the optimizer's step, or training waits for it.
  if (job.snapshot.deferred && !job.snapshot.deferred->tensors.is_empty()) {
    job.snapshot.deferred->tensors.when_over(lower_priority);
  } else {
    lower_priority();
  }
  const auto start = Clock::now();
  Outcome outcome;
  outcome.generation = job.generation;
  const bool is_first = job.rank == 0;
  GenerationWriter writer(*shared.folder, std::move(job), shared.is_over);
  outcome.failure = failure_of([&] { outcome.bytes = writer.write_files(); });
  if (!outcome.failure.empty()) {
    writer.report(outcome.failure);
  } else if (is_first) {
    outcome.failure = failure_of([&] { shared.counting.push_back(writer.commit()); });
  }
  outcome.seconds = Clock::now() - start;
  const bool counts = outcome.failure.empty();
  promise.set_value(std::move(outcome));
  if (is_first && counts) remove_old(shared);
}

void SaveThread::remove_old(Shared& shared) {
  const auto kept = kept_generations(shared.counting, shared.options);
  std::erase_if(shared.counting, [&](const CheckpointRecord& record) {
    if (kept.contains(record.generation)) return false;
    shared.folder->remove(shared.folder->generation(record.generation));
    return true;
  });
}

}  // namespace lockstep::training
