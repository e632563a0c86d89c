// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/checkpointer.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <set>
#include <utility>

#include "concurrency/deadline.h"
#include "concurrency/polling.h"
#include "native/posix/owning_process.h"
#include "training/checkpoint/agreement.h"
#include "training/checkpoint/folder.h"
#include "training/checkpoint/generation_reader.h"
#include "training/checkpoint/generation_writer.h"
#include "training/checkpoint/save_thread.h"
#include "training/checkpoint/snapshot.h"

namespace lockstep::training {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLongestPause{50};

void check(const CheckpointerOptions& options) {
  const auto require = [](bool claim, const char* name, auto value, const char* expected) {
    TORCH_CHECK(claim, "CheckpointerOptions: ", name, " is ", value, "; it must be ", expected);
  };
  require(options.every_steps() >= 0, "every_steps", options.every_steps(), "0 or more");
  require(options.keep_last() >= 1, "keep_last", options.keep_last(), "1 or more");
  require(options.keep_every_steps() >= 0, "keep_every_steps", options.keep_every_steps(),
          "0 or more");
  require(options.keep_best() >= 0, "keep_best", options.keep_best(), "0 or more");
  constexpr std::chrono::hours kLongest{24 * 365};
  require(options.timeout().count() > 0 && options.timeout() <= kLongest, "timeout",
          options.timeout().count(), "1 ms or more, and a year at most");
}

/// What tells the files of this run from those that an older one may still be writing.
std::string random_name() {
  std::random_device random;
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%08x%08x", random(), random());
  return text.data();
}

}  // namespace

class Checkpointer::Impl {
 public:
  Impl(std::shared_ptr<ProcessGroup> group, const std::filesystem::path& path,
       const CheckpointerOptions& options)
      : group_(std::move(group)), options_(options) {
    const auto limit = limit_calls();
    auto folder = std::make_shared<CheckpointFolder>(path);
    std::vector<CheckpointRecord> counting;
    std::string numbers;
    const std::string failure = first_failure(*group_, failure_of([&] {
      check(options_);
      if (group_->rank() != 0) return;
      folder->open_for_writing();
      counting = folder->candidates();
      numbers = random_name() + std::to_string(folder->newest() + 1);
    }));
    TORCH_CHECK(failure.empty(), failure);
    numbers = broadcast_text(*group_, std::move(numbers));
    constexpr std::size_t kRunDigits = 16;
    run_ = numbers.substr(0, kRunDigits);
    next_ = std::stoll(numbers.substr(kRunDigits));
    folder_ = std::move(folder);
    thread_.emplace(folder_, options_, std::move(counting));
  }

  ~Impl() {
    // A fork has neither the thread nor what it has locked.
    if (!owner_.is_current()) return;
    const std::string failure = failure_of([&] { before_step(); });
    if (!failure.empty()) logging::warning("a checkpoint may not be whole: " + failure);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::optional<FoundCheckpoint> load_latest(TrainingState& state);
  void before_step();
  bool after_step(const TrainingState& state, std::int64_t step, std::optional<double> metric);
  void save(const TrainingState& state, std::int64_t step, std::optional<double> metric);
  void wait();
  [[nodiscard]] CheckpointerStatistics statistics() const { return statistics_; }

 private:
  /// Ranks that look at files may be long apart.
  [[nodiscard]] CallScope limit_calls() {
    constexpr std::chrono::milliseconds kLeast = std::chrono::minutes(10);
    return group_->with(CallOptions().timeout(std::max(options_.timeout(), kLeast)));
  }
  [[nodiscard]] GenerationWriter::Job make_job(std::int64_t step, std::optional<double> metric);
  /// Waits for the thread, and takes over what it has found.
  void finish_writing();
  /// Throws where the last deferred save was of an earlier step, and may be read in place still.
  void check_released(std::int64_t step) const;
  void note_failure(const std::string& text);
  /// Waits for the lines of all generations whose outcome this rank does not know.
  void wait_for_lines();
  void take_lines();
  [[nodiscard]] std::string load(const CheckpointRecord& record, TrainingState& state,
                                 bool& is_damaged);

  std::shared_ptr<ProcessGroup> group_;
  CheckpointerOptions options_;
  CheckpointerStatistics statistics_;
  SnapshotMemory memory_;
  std::shared_ptr<const CheckpointFolder> folder_;
  std::string run_;
  std::int64_t next_ = 1;
  std::set<std::int64_t> unconfirmed_;  // generations whose outcome this rank does not know
  std::uint64_t lines_from_ = 0;        // of the manifest, which of them it has seen
  std::string failure_;                 // the first since the last wait
  std::int64_t deferred_step_ = 0;
  std::shared_ptr<DeferredReads> deferred_;  // what is still read of the program's tensors
  native::OwningProcess owner_;
  std::optional<SaveThread> thread_;  // last: it uses the others
};

void Checkpointer::Impl::note_failure(const std::string& text) {
  ++statistics_.failures;
  logging::warning("rank " + std::to_string(group_->rank()) +
                   ": a checkpoint was not saved: " + text);
  if (failure_.empty()) failure_ = text;
}

void Checkpointer::Impl::finish_writing() {
  const auto outcome = thread_->finish();
  deferred_.reset();  // nothing is read any more
  if (!outcome) return;
  statistics_.bytes += outcome->bytes;
  statistics_.writing += outcome->seconds;
  // Rank 0 knows of all ranks.
  if (group_->rank() == 0 || !outcome->failure.empty()) unconfirmed_.erase(outcome->generation);
  if (!outcome->failure.empty()) note_failure(outcome->failure);
}

GenerationWriter::Job Checkpointer::Impl::make_job(std::int64_t step,
                                                   std::optional<double> metric) {
  GenerationWriter::Job job;
  job.run = run_;
  job.generation = next_++;
  job.step = step;
  job.rank = group_->rank();
  job.world_size = group_->size();
  job.metric = metric;
  job.is_verified = options_.verify_after_write();
  job.timeout = options_.timeout();
  return job;
}

void Checkpointer::Impl::save(const TrainingState& state, std::int64_t step,
                              std::optional<double> metric) {
  TORCH_CHECK(step >= 0, "Checkpointer: step is ", step, "; it must be 0 or more");
  check_released(step);
  const auto start = Clock::now();
  // First of all: the numbers stay the same on all ranks, whatever goes wrong on this one.
  GenerationWriter::Job job = make_job(step, metric);
  // Where that throws, the filesystem does not answer, and nothing can be told to other ranks.
  finish_writing();
  statistics_.waited_for_save_before += Clock::now() - start;
  try {
    job.snapshot = memory_.take(state.parts(), job.rank, job.world_size, options_.deferred());
    deferred_ = job.snapshot.deferred;
    deferred_step_ = step;
  } catch (...) {
    // The other ranks need not wait for what does not come.
    const std::atomic<bool> is_over{true};
    GenerationWriter(*folder_, std::move(job), is_over).report("its state cannot be taken");
    ++statistics_.failures;
    throw;
  }
  unconfirmed_.insert(job.generation);
  thread_->start(std::move(job));
  ++statistics_.saves;
  statistics_.stall += Clock::now() - start;
}

void Checkpointer::Impl::check_released(std::int64_t step) const {
  TORCH_CHECK(
      !deferred_ || step <= deferred_step_,
      "Checkpointer: before_step() was not called between the save of step ", deferred_step_,
      " and step ", step,
      "; with CheckpointerOptions::deferred, call it before each step() of the optimizer. The "
      "checkpoint of step ",
      deferred_step_, " may have values of two steps");
}

bool Checkpointer::Impl::after_step(const TrainingState& state, std::int64_t step,
                                    std::optional<double> metric) {
  check_released(step);
  const auto every = options_.every_steps();
  if (every == 0 || step % every != 0) return false;
  save(state, step, metric);
  return true;
}

void Checkpointer::Impl::before_step() {
  if (!deferred_) return;
  const auto start = Clock::now();
  statistics_.copied_before_step += std::exchange(deferred_, nullptr)->release();
  statistics_.stall += Clock::now() - start;
}

void Checkpointer::Impl::take_lines() {
  for (const auto& record : folder_->records(lines_from_)) {
    if (record.run != run_) continue;
    if (unconfirmed_.erase(record.generation) > 0 && !record.failure.empty()) {
      note_failure(record.failure);
    }
  }
}

void Checkpointer::Impl::wait_for_lines() {
  // Rank 0 waits as long for the other ranks, from a later moment on.
  constexpr std::chrono::seconds kMargin{70};
  const Deadline deadline = Deadline::after(3 * options_.timeout() + kMargin);
  const auto have_come = [&] {
    take_lines();
    return unconfirmed_.empty();
  };
  if (poll_until(deadline, kLongestPause, have_come)) return;
  note_failure(folder_->manifest().string() + " has no line of generation " +
               std::to_string(*unconfirmed_.begin()) + " after " +
               std::to_string(deadline.elapsed().count()) +
               " s (CheckpointerOptions::timeout); does this rank see the folder of rank 0?");
  unconfirmed_.clear();
}

void Checkpointer::Impl::wait() {
  finish_writing();
  if (!unconfirmed_.empty()) wait_for_lines();
  static_cast<void>(thread_->has_ended());  // what is not kept is gone, unless the disk hangs
  const std::string failure = std::exchange(failure_, "");
  TORCH_CHECK(failure.empty(), "a checkpoint was not saved: ", failure);
}

std::string Checkpointer::Impl::load(const CheckpointRecord& record, TrainingState& state,
                                     bool& is_damaged) {
  GenerationReader reader(*folder_, record, group_->rank(), group_->size());
  std::string failure = first_failure(*group_, failure_of([&] { reader.verify(state.parts()); }));
  is_damaged = !failure.empty();
  if (is_damaged) return failure;
  std::vector<std::function<void()>> loads;
  failure = first_failure(*group_, failure_of([&] { loads = reader.prepare(state.parts()); }));
  if (!failure.empty()) return failure;
  return first_failure(*group_, failure_of([&] {
    for (const auto& load : loads) load();
  }));
}

std::optional<FoundCheckpoint> Checkpointer::Impl::load_latest(TrainingState& state) {
  const auto limit = limit_calls();
  // What went wrong was logged; what counts is what there is.
  before_step();
  static_cast<void>(failure_of([&] { wait(); }));
  const std::string busy = first_failure(
      *group_, thread_->has_ended() ? "" : "a checkpoint is still being written or removed");
  TORCH_CHECK(busy.empty(), folder_->path().string(), ": ", busy);
  // On all ranks the same, also where a rank sees the folder later than others.
  std::string manifest;
  const std::string unreadable = first_failure(*group_, failure_of([&] {
    if (group_->rank() != 0) return;
    for (const auto& record : folder_->candidates()) manifest += record.to_line() + "\n";
  }));
  TORCH_CHECK(unreadable.empty(), unreadable);
  const auto records = parse_manifest(broadcast_text(*group_, std::move(manifest)));
  std::string damaged;
  for (auto record = records.rbegin(); record != records.rend(); ++record) {
    bool is_damaged = false;
    const std::string failure = load(*record, state, is_damaged);
    if (failure.empty()) {
      return FoundCheckpoint{record->generation, record->step, record->metric,
                             static_cast<int>(record->world_size)};
    }
    TORCH_CHECK(is_damaged, folder_->generation(record->generation).string(), ": ", failure);
    if (group_->rank() == 0) {
      logging::warning("the checkpoint of step " + std::to_string(record->step) +
                       " is passed over: " + failure);
    }
    thread_->forget(record->generation);
    if (damaged.empty()) damaged = failure;
  }
  TORCH_CHECK(damaged.empty(), folder_->path().string(),
              ": no checkpoint is whole; the newest: ", damaged);
  return std::nullopt;
}

Checkpointer::Checkpointer(std::shared_ptr<ProcessGroup> group, const std::filesystem::path& folder,
                           const CheckpointerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(group), folder, options)) {}

Checkpointer::~Checkpointer() = default;

std::optional<FoundCheckpoint> Checkpointer::load_latest(TrainingState& state) {
  return impl_->load_latest(state);
}

bool Checkpointer::after_step(const TrainingState& state, std::int64_t step,
                              std::optional<double> metric) {
  return impl_->after_step(state, step, metric);
}

void Checkpointer::save(const TrainingState& state, std::int64_t step,
                        std::optional<double> metric) {
  impl_->save(state, step, metric);
}

void Checkpointer::before_step() {
  impl_->before_step();
}

void Checkpointer::wait() {
  impl_->wait();
}

CheckpointerStatistics Checkpointer::statistics() const {
  return impl_->statistics();
}

}  // namespace lockstep::training
