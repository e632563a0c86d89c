// SPDX-License-Identifier: BSD-3-Clause
// The short path of a request: submit (here) -> a member's process (member_worker) -> the thread
// that waits (request) -> answers (ensemble_answers).
#include "inference/ensemble_core.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "concurrency/deadline.h"
#include "inference/member_worker.h"
#include "native/posix/child_process.h"
#include "native/posix/posix_check.h"
#include "native/posix/usable_cores.h"
#include "workers/forked_workers.h"
#include "workers/thread_workers.h"

namespace lockstep::inference::detail {
namespace {

using workers::WorkerState;

// Longer than it takes to wake somebody, tens of microseconds on a virtual machine: otherwise both
// sides fall asleep in each request while the other one wakes up.
constexpr std::chrono::microseconds kSpin{200};
constexpr std::uint64_t kBetweenLooks = 50'000'000;  // nanoseconds

/// Members that are threads set LibTorch's number for all threads that come after them: puts back
/// the program's.
class KeepThreads {
 public:
  explicit KeepThreads(bool is_needed) : threads_(is_needed ? at::get_num_threads() : 0) {}
  ~KeepThreads() {
    if (threads_ > 0) at::set_num_threads(threads_);
  }
  KeepThreads(const KeepThreads&) = delete;
  KeepThreads& operator=(const KeepThreads&) = delete;

 private:
  int threads_;
};

ChannelShape shape_of(const std::vector<Member>& members, const EnsembleOptions& options) {
  ChannelShape shape;
  shape.slots = static_cast<std::size_t>(options.queue());
  shape.members = members.size();
  for (std::size_t member = 0; member < members.size(); ++member) {
    shape.member_of_worker.insert(shape.member_of_worker.end(),
                                  static_cast<std::size_t>(members[member].copies()), member);
  }
  return shape;
}

// A core must be left for whoever submits.
std::chrono::nanoseconds spin_for(const std::vector<Member>& members) {
  std::int64_t threads = 0;
  for (const auto& member : members) threads += member.copies() * member.threads();
  return threads < native::usable_cores() ? kSpin : std::chrono::microseconds(0);
}

std::shared_ptr<MemberJob> make_job(std::vector<Member> members, EnsembleOptions options) {
  auto job = std::make_shared<MemberJob>();
  job->channel = std::make_shared<RequestChannel>(shape_of(members, options));
  job->spin = spin_for(members);
  job->members = std::move(members);
  job->options = std::move(options);
  return job;
}

// The same for all requests that may be put into one batch; others may have it as well.
std::uint64_t batch_key_of(const TensorForm& form, BatchForm batch_form) {
  constexpr std::uint64_t kPrime = 0x100'0000'01b3;
  std::uint64_t key = 0xcbf2'9ce4'8422'2325;
  const auto mix = [&](std::int64_t value) {
    key = (key ^ static_cast<std::uint64_t>(value)) * kPrime;
  };
  mix(form.dtype);
  mix(form.dimensions);
  const std::size_t first = batch_form == BatchForm::Rows ? 1 : 0;
  for (std::size_t at = first; at < form.sizes.size(); ++at) mix(form.sizes[at]);
  return key;
}

}  // namespace

EnsembleCore::EnsembleCore(std::vector<Member> members, EnsembleOptions options)
    : job_(make_job(std::move(members), std::move(options))),
      quorum_(job_->options.quorum() == 0 ? job_->members.size()
                                          : static_cast<std::size_t>(job_->options.quorum())),
      spin_(job_->spin),
      areas_(job_->channel, false),
      missing_(std::make_unique<std::atomic<std::uint64_t>[]>(job_->members.size())) {
  const auto slots = channel().shape().slots;
  requests_.resize(slots);
  free_.reserve(slots);
  draining_.reserve(slots);
  for (std::size_t slot = slots; slot-- > 0;) free_.push_back(slot);
  const KeepThreads threads(this->options().kind() == WorkerKind::Thread);
  try {
    start_host();
    wait_for_members();
  } catch (...) {
    if (host_ != nullptr) host_->stop();
    throw;
  }
}

void EnsembleCore::start_host() {
  workers::WorkerProgram program;
  program.run = [job = job_](std::size_t worker) { run_member(*job, worker); };
  program.repair = [channel = job_->channel](std::size_t worker) { channel->repair(worker); };
  program.keep_descriptors = {channel().region().descriptor()};
  program.timeout = options().member_timeout();
  program.start_timeout = options().start_timeout();
  program.restarts_without_end = true;
  if (options().kind() == WorkerKind::Thread) {
    host_ = std::make_unique<workers::ThreadWorkers>(channel().table(), program);
  } else {
    host_ = std::make_unique<workers::ForkedWorkers>(channel().table(), program);
  }
}

void EnsembleCore::wait_for_members() {
  constexpr int kStarts = 4;  // the fork server tries three times
  const auto deadline = Deadline::after(kStarts * options().start_timeout());
  const auto table = channel().table();
  while (true) {
    const auto seen = table.events.done_count();
    bool are_all_ready = true;
    for (std::size_t worker = 0; worker < table.workers.size(); ++worker) {
      const auto state = table.workers[worker].state.load(std::memory_order_acquire);
      are_all_ready = are_all_ready && state == WorkerState::Running;
      if (state == WorkerState::GivenUp || state == WorkerState::StartFailed) {
        throw EnsembleError(EnsembleFailure::NotStarted, why_not_started(worker),
                            {members()[channel().shape().member_of_worker[worker]].name()});
      }
    }
    if (are_all_ready) break;
    if (host_->supervisor_status()) {
      throw EnsembleError(EnsembleFailure::Lost,
                          "Ensemble: the parent process of the members ended while they started");
    }
    if (deadline.has_passed()) {
      throw EnsembleError(EnsembleFailure::NotStarted,
                          "Ensemble: the members were not ready in time; "
                          "EnsembleOptions::start_timeout says how long they may take");
    }
    table.events.wait_for_done(seen, workers::PoolEvents::kAnyTask);
  }
}

std::string EnsembleCore::why_not_started(std::size_t worker) const {
  const auto& record = job_->channel->workers()[worker];
  const auto status = record.wait_status.load(std::memory_order_relaxed);
  std::string text = "Ensemble: member ";
  text += members()[job_->channel->shape().member_of_worker[worker]].name();
  text += " could not be started: ";
  if (record.state.load(std::memory_order_acquire) == WorkerState::StartFailed) {
    text += native::error_text(status);
  } else if (record.message[0] != '\0') {
    text += record.message;
  } else if (record.kill_reason.load(std::memory_order_relaxed) != workers::KillReason::None) {
    text += "it took longer than the start_timeout of ";
    text += std::to_string(options().start_timeout().count());
    text += " ms, and was killed";
  } else {
    text += "its process ";
    text += native::describe_wait_status(status);
  }
  return text;
}

std::shared_ptr<Request> EnsembleCore::submit(const at::Tensor& input) {
  TORCH_CHECK(owner_.is_current(),
              "Ensemble: this process is a fork of the one that has the ensemble; submit there");
  TORCH_CHECK(input.defined(), "Ensemble: the input is undefined");
  TORCH_CHECK(
      options().max_batch() == 1 || options().batch_form() == BatchForm::Samples || input.dim() > 0,
      "Ensemble: the input has no dimensions, and max_batch is ", options().max_batch(),
      "; its first dimension must be the one of the rows");
  const auto now = now_ns();
  const auto limit = static_cast<std::uint64_t>(std::min<std::int64_t>(
      options().deadline().count(), std::numeric_limits<std::int64_t>::max() / 4'000'000));
  const auto deadline = now + limit * 1'000'000;
  const auto slot = take_slot(deadline);
  try {
    channel().slot(slot).submitted.store(now, std::memory_order_relaxed);
    write_request(slot, input, deadline);
    const auto number = next_number_.fetch_add(1, std::memory_order_relaxed);
    auto request = std::make_shared<Request>(shared_from_this(), slot, number);
    counts_.submitted.fetch_add(1, std::memory_order_relaxed);
    channel().open(slot, number);
    // Not before: until then, the slot has the parts of the request before.
    const std::lock_guard lock(mutex_);
    requests_[slot] = request;
    return request;
  } catch (...) {
    release(slot);
    throw;
  }
}

void EnsembleCore::write_request(std::size_t slot, const at::Tensor& input,
                                 std::uint64_t deadline) {
  auto& words = channel().slot(slot);
  try {
    areas_.write(slot, SlotAreas::kInput, input, words.input);
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, "Ensemble: the input cannot be taken: ", error.what_without_backtrace());
  }
  words.deadline.store(deadline, std::memory_order_relaxed);
  words.batch_key.store(batch_key_of(words.input, options().batch_form()),
                        std::memory_order_relaxed);
  const bool has_rows = options().batch_form() == BatchForm::Rows && input.dim() > 0;
  words.rows.store(has_rows ? static_cast<std::uint64_t>(input.size(0)) : 1,
                   std::memory_order_relaxed);
}

std::size_t EnsembleCore::take_slot(std::uint64_t deadline) {
  while (true) {
    const auto seen = channel().completions();
    if (const auto slot = try_take_slot()) return *slot;
    if (settle_finished_requests()) continue;
    std::string text = "Ensemble: the queue of ";
    text += std::to_string(options().queue());
    text += " requests is full";
    const auto now = now_ns();
    if (options().when_full() == WhenFull::Throw || now >= deadline) {
      counts_.refused.fetch_add(1, std::memory_order_relaxed);
      if (options().when_full() == WhenFull::Wait) {
        text += ", and had no room within the deadline of ";
        text += std::to_string(options().deadline().count());
        text += " ms";
      }
      throw QueueFull(text);
    }
    channel().wait_for_completion(seen, std::chrono::nanoseconds(deadline - now));
  }
}

std::optional<std::size_t> EnsembleCore::try_take_slot() {
  const std::lock_guard lock(mutex_);
  if (is_closed_) throw EnsembleError(EnsembleFailure::Closed, "Ensemble: it is closed");
  if (free_.empty()) {
    std::erase_if(draining_, [&](std::size_t slot) {
      if (!channel().is_over(slot)) return false;
      free_.push_back(slot);
      return true;
    });
  }
  if (free_.empty()) return std::nullopt;
  const auto slot = free_.back();
  free_.pop_back();
  return slot;
}

// Outputs of requests that are over, but whose answers nobody has taken yet, move to the program's
// own memory.
bool EnsembleCore::settle_finished_requests() {
  std::vector<std::shared_ptr<Request>> requests;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& weak : requests_) {
      if (auto request = weak.lock()) requests.push_back(std::move(request));
    }
  }
  bool is_any_settled = false;
  for (const auto& request : requests) is_any_settled |= request->try_settle();
  return is_any_settled;
}

void EnsembleCore::release(std::size_t slot) noexcept {
  channel().abandon(slot);
  {
    const std::lock_guard lock(mutex_);
    requests_[slot].reset();
    (channel().is_over(slot) ? free_ : draining_).push_back(slot);
  }
  channel().announce(slot);
}

void EnsembleCore::count_cancelled() noexcept {
  counts_.cancelled.fetch_add(1, std::memory_order_relaxed);
}

// Until the last member was through with it, not until somebody asked.
void EnsembleCore::count_end(std::size_t slot, const Verdict& verdict, bool is_answered) noexcept {
  (is_answered ? counts_.answered : counts_.failed).fetch_add(1, std::memory_order_relaxed);
  const auto& words = channel().slot(slot);
  const auto ended = words.ended.load(std::memory_order_relaxed);
  counts_.latency.add((ended == 0 || verdict.failure ? now_ns() : ended) -
                      words.submitted.load(std::memory_order_relaxed));
}

bool EnsembleCore::is_lost() {
  const auto now = now_ns();
  if (is_lost_ || now - last_look_.load(std::memory_order_relaxed) < kBetweenLooks) return is_lost_;
  const std::lock_guard lock(mutex_);
  last_look_.store(now, std::memory_order_relaxed);
  if (!is_closed_ && host_->supervisor_status()) is_lost_ = true;
  return is_lost_;
}

bool EnsembleCore::ready() {
  if (is_closed_ || is_lost()) return false;
  std::size_t ready = 0;
  for (std::size_t member = 0; member < members().size(); ++member) {
    if (channel().has_ready_copy(member)) ++ready;
  }
  return ready >= quorum_;
}

void EnsembleCore::close() {
  if (!owner_.is_current()) return;
  const std::lock_guard closing(closing_);
  {
    const std::lock_guard lock(mutex_);
    if (is_closed_.exchange(true)) return;
  }
  host_->stop();  // nobody else asks the host for anything any more
  for (std::size_t slot = 0; slot < channel().shape().slots; ++slot) channel().announce(slot);
}

}  // namespace lockstep::inference::detail
