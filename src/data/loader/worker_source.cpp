// SPDX-License-Identifier: BSD-3-Clause
// Step 3 of the way of a sample, second half: batches are waited for. Before it: data_loader, and
// work_assignment gave them out. In between: the worker host, shared_memory_channel, batch_worker.
// After it: batch_delivery makes tensors of what lies in the workers' memory.
#include "data/loader/worker_source.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "concurrency/waited_time.h"
#include "data/loader/spawned_worker.h"
#include "workers/forked_workers.h"
#include "workers/thread_workers.h"

namespace lockstep::data::detail {
namespace {

using workers::SharedMemoryChannel;
using workers::SlotState;

// Slots beyond those that are being filled: what a training step holds until its backward pass is
// over.
constexpr std::size_t kSpareSlots = 3;
// A program may take this long to come to maybe_worker_main.
constexpr std::chrono::milliseconds kProgramStart{120'000};

std::chrono::milliseconds start_timeout_of(const DataLoaderOptions& options) {
  if (options.kind() != WorkerKind::Spawn) return options.timeout();
  return std::max(options.timeout(), kProgramStart);
}

workers::Poison poison_of(const DataLoaderOptions& options, const SampleSource& source) {
  // What a stream would have given next is not a sample that could be left out.
  if (source.open || options.on_poison_sample() == PoisonPolicy::Error) {
    return workers::Poison::Fails;
  }
  return options.on_poison_sample() == PoisonPolicy::Skip ? workers::Poison::IsLeftOut
                                                          : workers::Poison::IsReplaced;
}

workers::WorkerProgram program_of(const std::shared_ptr<WorkerJob>& job, bool as_threads,
                                  const DataLoaderOptions& options) {
  // A dataset need not be safe to use in several threads: each has its own, where it can be copied.
  std::vector<std::shared_ptr<WorkerJob>> jobs(job->channel->workers(), job);
  if (as_threads && job->source.copy) {
    for (auto& own : jobs) {
      own = std::make_shared<WorkerJob>(*job);
      own->source = job->source.copy();
    }
  }
  workers::WorkerProgram program;
  if (options.kind() == WorkerKind::Spawn) {
    program.run = [channel = job->channel](std::size_t worker) {
      become_worker(*channel, channel->ring().descriptor(), worker);
    };
  } else {
    program.run = [jobs](std::size_t worker) { BatchWorker(*jobs[worker], worker).run(); };
  }
  program.start_timeout = start_timeout_of(options);
  program.repair = [channel = job->channel,
                    poison = poison_of(options, job->source)](std::size_t worker) {
    channel->repair(worker, poison);
    auto& turn = SharedLayout::of(*channel).turn;
    auto settling = SharedLayout::kSettling | worker;
    turn.compare_exchange_strong(settling, SharedLayout::kNobody);
  };
  program.keep_descriptors = {job->channel->ring().descriptor()};
  program.timeout = options.timeout();
  program.memory_limit = static_cast<std::size_t>(options.worker_memory_limit());
  return program;
}

}  // namespace

// The rank waits: for how long at all, which is a stall, and since the last sign that work gets on.
class WorkerSource::Wait {
 public:
  Wait(LoaderStatistics& statistics, std::chrono::milliseconds timeout)
      : statistics_(statistics),
        slice_(
            std::min<Clock::duration>(SharedMemoryChannel::kSlice, Clock::duration(timeout) / 4)),
        waited_(2 * slice_, start_) {}
  ~Wait() {
    statistics_.stall_seconds += std::chrono::duration<double>(Clock::now() - start_).count();
  }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  [[nodiscard]] Clock::duration without_progress(std::uint64_t signs) {
    if (std::exchange(signs_, signs) != signs) waited_.restart();
    return waited_.look();
  }
  // No sleep is longer: or it would be taken for one in which this process did not run.
  [[nodiscard]] Clock::duration slice() const { return slice_; }

 private:
  LoaderStatistics& statistics_;
  Clock::time_point start_ = Clock::now();
  Clock::duration slice_;
  WaitedTime waited_;
  std::uint64_t signs_ = 0;
};

WorkerSource::WorkerSource(SampleSource source, const BatchFacts& facts,
                           const DataLoaderOptions& options)
    : facts_(facts),
      workers_(static_cast<std::size_t>(options.workers())),
      timeout_(options.timeout()),
      start_timeout_(start_timeout_of(options)),
      in_order_(options.in_order()),
      may_leave_out_(!source.open && (options.on_poison_sample() == SamplePolicy::Skip ||
                                      options.on_failed_sample() == SamplePolicy::Skip)),
      replaces_(options.on_poison_sample() == SamplePolicy::Replace ||
                options.on_failed_sample() == SamplePolicy::Replace),
      on_failed_sample_(options.on_failed_sample()),
      job_(std::make_shared<WorkerJob>()) {
  const auto slots = workers_ * static_cast<std::size_t>(options.prefetch_batches()) + kSpareSlots;
  slots_.resize(slots);
  reported_.assign(workers_, false);
  const bool as_threads = options.kind() == WorkerKind::Thread;
  job_->source = std::move(source);
  job_->facts = facts;
  job_->seed = options.seed();
  job_->init = options.worker_init();
  job_->cpus = options.worker_cpus();
  job_->is_own_process = !as_threads;
  std::string spawned;
  if (options.kind() == WorkerKind::Spawn) {
    spawned = describe_job(*job_, options.spawn_name(), options.spawn_config());
  }
  channel_ = std::make_shared<SharedMemoryChannel>(SharedMemoryChannel::Shape{
      slots, workers_, facts.largest_batch, sizeof(SharedLayout) + spawned.size(),
      !job_->source.has_rows && !job_->source.open && workers_ > 1});
  job_->channel = channel_;
  auto* common = std::construct_at(&SharedLayout::of(*channel_));
  common->job_bytes = spawned.size();
  std::memcpy(channel_->user_area() + sizeof(SharedLayout), spawned.data(), spawned.size());
  const auto program = program_of(job_, as_threads, options);
  if (as_threads) {
    host_ = std::make_unique<workers::ThreadWorkers>(channel_->board(), program);
  } else {
    host_ = std::make_unique<workers::ForkedWorkers>(channel_->board(), program);
  }
}

WorkerSource::~WorkerSource() {
  const bool are_over = host_->stop();
  host_.reset();
  if (!are_over) return;  // a thread that is stuck may still use all of it
  // Batches that are still held keep the ring alive. They need their mapping, and nothing of what
  // was on its way; of a fork's copy all of it is another process's.
  if (process_.is_current()) {
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
      const auto state = channel_->state(slot);
      if (state == SlotState::Filling || state == SlotState::Ready) channel_->free_pieces(slot);
    }
  }
  channel_->ring().close_descriptor();
}

void WorkerSource::start(PassPlan plan) {
  for (auto& slot : slots_) {
    if (slot.use != Use::None) slot.use = Use::Stale;
  }
  now_.base += now_.assigned + (ahead_ ? ahead_->assigned : 0);
  now_.assigned = 0;
  now_.error = nullptr;
  now_.plan = std::move(plan);
  begin_pass();
}

void WorkerSource::prepare(std::function<PassPlan()> plan) {
  if (!job_->source.open) prepare_ = std::move(plan);
}

bool WorkerSource::start_prepared() {
  if (!ahead_ || ahead_->error) return false;  // begun anew, it says why
  for (auto& slot : slots_) {
    if (slot.use == Use::Live) slot.use = Use::Stale;
    if (slot.use == Use::Ahead) slot.use = Use::Live;
  }
  now_ = std::move(*ahead_);
  begin_pass();
  return true;
}

void WorkerSource::begin_pass() {
  ahead_.reset();
  prepare_ = nullptr;
  ++pass_;
  next_ = 0;
  if (job_->source.open) round_.start(facts_.shards);
  last_taken_ = Clock::now();
  move_layout_turn();
  give_out_work();
  channel_->wake_workers();
}

bool WorkerSource::has_next() {
  if (!may_be_over()) {
    if (next_ < now_.plan.batches) return true;
    give_out_work();  // the last batch's slot is for what follows
    return false;
  }
  // Only when what was given out has come back is it known whether there is any more.
  for (;;) {
    const auto seen = give_out_work();
    if (!job_->source.open && next_ >= now_.plan.batches) return false;
    if (!seen.next) return !job_->source.open || !round_.is_over();
    if (seen.next_is_ready) {
      if (!passes_over(*seen.next)) return true;
      continue;
    }
    await_end(*seen.next);
    // A failure is a batch too: its error is for `next`.
    if (channel_->state(*seen.next) == SlotState::Filling) return true;
  }
}

// Whether batches that are still expected may turn out to be none.
bool WorkerSource::may_be_over() const {
  return job_->source.open != nullptr || may_leave_out_;
}

// Until the batch is there, or no longer to be expected.
void WorkerSource::await_end(std::size_t slot) {
  Wait wait(statistics_, timeout_);
  while (channel_->state(slot) == SlotState::Filling) {
    const auto seen = channel_->done_count();
    if (supervisor_is_dead_ || host_->supervisor_status()) break;
    if (is_lost_to_all(slot)) break;
    if (wait.without_progress(signs_of_progress(slot)) > patience()) break;
    if (channel_->state(slot) != SlotState::Filling) break;
    channel_->wake_workers();
    channel_->wait_done(seen, channel_->sequence(slot), wait.slice());
    move_layout_turn();
  }
}

bool WorkerSource::is_ready() {
  for (;;) {
    const auto seen = give_out_work();
    if (!seen.next_is_ready) return false;
    if (!passes_over(*seen.next)) return true;
  }
}

SampleTree WorkerSource::next() {
  // Once a pass at least: a program that never has to wait hears of lost workers, too.
  if (next_ == 0) check_workers();
  auto seen = give_out_work();
  ++asked_;
  depth_sum_ += seen.ready;
  for (;; seen = give_out_work()) {
    if (!seen.next && now_.error && now_.assigned == next_) std::rethrow_exception(now_.error);
    if (!seen.next_is_ready) seen = await();
    TORCH_CHECK(seen.next, "DataLoader: there are no more batches in this epoch");
    check_failed(*seen.next);
    if (!passes_over(*seen.next)) return deliver(*seen.next, seen.held);
  }
}

WorkerSource::Overview WorkerSource::await() {
  Wait wait(statistics_, timeout_);
  for (;;) {
    const auto done = channel_->done_count();
    move_layout_turn();
    const auto seen = give_out_work();
    const auto slot = seen.next;
    if (!slot && job_->source.open && round_.is_over()) return seen;
    if (!slot && now_.error) std::rethrow_exception(now_.error);
    check_workers();
    if (seen.next_is_ready) return seen;
    check_anyone_left(slot);
    const auto waited = wait.without_progress(signs_of_progress(slot));
    if (waited > patience()) throw_timeout(slot, std::chrono::duration<double>(waited).count());
    channel_->wake_workers();
    const auto awaited =
        slot && in_order_ ? channel_->sequence(*slot) : workers::BoardHeader::kAny - 1;
    channel_->wait_done(done, awaited, wait.slice());
  }
}

// How long the rank waits for a sign of progress. The host kills what hangs; this is for when the
// host hangs, and for threads.
std::chrono::milliseconds WorkerSource::patience() const {
  if (!host_->replaces_workers()) return timeout_;
  const auto& workers = channel_->board().workers;
  const bool is_starting = std::any_of(workers.begin(), workers.end(), [](const auto& record) {
    return record.state.load(std::memory_order_relaxed) == workers::WorkerState::Starting;
  });
  return 2 * (is_starting ? start_timeout_ : timeout_) + std::chrono::seconds(1);
}

std::uint64_t WorkerSource::signs_of_progress(std::optional<std::size_t> slot) const {
  std::uint64_t signs = slot ? channel_->progress(*slot) : 0;
  for (const auto& record : channel_->board().workers) {
    signs += record.restarts.load(std::memory_order_relaxed);
    // A shard's samples are not counted in the slot. And a thread that is still at a sample of
    // another pass is not hanging as long as it comes to an end.
    if (job_->source.open || !host_->replaces_workers())
      signs += record.beats.load(std::memory_order_relaxed);
  }
  return signs;
}

WorkerSource::Overview WorkerSource::look() const {
  Overview overview;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    see(overview, slot, channel_->state(slot));
  }
  return overview;
}

void WorkerSource::see(Overview& overview, std::size_t slot, SlotState state) const {
  if (state == SlotState::Held) ++overview.held;
  const auto& mine = slots_[slot];
  if (mine.use != Use::Live) return;
  const bool is_ready = state == SlotState::Ready;
  if (is_ready) ++overview.ready;
  const bool is_older = overview.next && mine.batch < slots_[*overview.next].batch;
  const bool goes_first = in_order_ || is_ready == overview.next_is_ready ? is_older : is_ready;
  if (overview.next && !goes_first) return;
  overview.next = slot;
  overview.next_is_ready = is_ready;
}

// Whether there is nothing in it for the program: the end of a shard, or all of its samples were
// left out.
bool WorkerSource::passes_over(std::size_t slot) {
  if (channel_->first_failed(slot)) return false;
  if (job_->source.open) {
    const auto rows = StreamResult::of(channel_->result(slot)).samples;
    if (rows == facts_.batch_size) return false;
    round_.end(slots_[slot].turn.shard, slots_[slot].turn.batch);
    if (rows != 0 && !facts_.drop_last) return false;
  } else {
    if (!may_leave_out_ || !rows_of(slot).empty()) return false;
    ++next_;
  }
  static_cast<void>(count_samples(slot));
  take_back(slot);
  return true;
}

}  // namespace lockstep::data::detail
