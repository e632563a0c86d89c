// SPDX-License-Identifier: BSD-3-Clause
// What becomes of a request whose parts are over, or whose time is.
#include <c10/util/Exception.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <utility>

#include "inference/ensemble_core.h"
#include "inference/tensor_copy.h"
#include "native/posix/child_process.h"
#include "native/posix/posix_check.h"

namespace lockstep::inference::detail {
namespace {

using workers::WorkerState;

bool is_poison(const RequestChannel& channel, std::size_t slot, const Verdict& verdict) {
  for (std::size_t member = 0; member < verdict.parts.size(); ++member) {
    if (verdict.parts[member].state != PartState::Failed) continue;
    const auto failure = channel.part(slot, member).failure;
    if (failure == PartFailure::Ended || failure == PartFailure::Hung) return true;
  }
  return false;
}

EnsembleError error_of(std::uint64_t number, std::size_t answers, std::size_t quorum,
                       EnsembleFailure failure, const Answer& answer, std::size_t members) {
  std::string text = "Ensemble: request ";
  text += std::to_string(number);
  if (failure == EnsembleFailure::Poison) text += " is refused as poison: it";
  text += " has answers of " + std::to_string(answers) + " of " + std::to_string(members);
  text += " members, and the quorum is " + std::to_string(quorum) + ": ";
  for (std::size_t at = 0; at < answer.missing.size(); ++at) {
    if (at > 0) text += "; ";
    text += answer.missing[at];
    text += ' ';
    text += answer.reasons[at];
  }
  return {failure, text, answer.missing};
}

std::string describe_end(int wait_status) {
  auto text = native::describe_wait_status(wait_status);
  if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGSEGV) {
    text += " (a model that writes to its input ends by signal 11)";
  }
  return text;
}

std::chrono::nanoseconds quantile_of(const LatencyHistogram& histogram, double part) {
  return std::chrono::nanoseconds(histogram.quantile(part));
}

Latency latency_of(const LatencyHistogram& histogram) {
  return {histogram.count(), quantile_of(histogram, 0.5), quantile_of(histogram, 0.99),
          quantile_of(histogram, 0.999)};
}

}  // namespace

std::optional<Verdict> EnsembleCore::judge(std::size_t slot) {
  Verdict verdict;
  std::size_t done = 0;
  std::size_t pending = 0;
  std::size_t absent = 0;  // of these, with nobody to take them
  for (std::size_t member = 0; member < members().size(); ++member) {
    auto word = channel().word(slot, member);
    if (word.state == PartState::Open && is_gone(member)) {
      channel().give_up(slot, member, why_gone(member));
      word = channel().word(slot, member);
    }
    verdict.parts.push_back(word);
    if (word.state == PartState::Done) ++done;
    if (!word.is_over()) ++pending;
    if (word.state == PartState::Open && !channel().has_ready_copy(member)) ++absent;
  }
  if (pending == 0 || done + pending < quorum_) return verdict;
  // The program does not wait for a member's start where the others are enough.
  verdict.is_without_absent = done >= quorum_ && pending == absent;
  if (verdict.is_without_absent) return verdict;
  if (is_closed_) {
    verdict.failure = EnsembleFailure::Closed;
  } else if (is_lost()) {
    verdict.failure = EnsembleFailure::Lost;
  } else if (now_ns() >= channel().slot(slot).deadline.load(std::memory_order_relaxed)) {
    verdict.failure = EnsembleFailure::Deadline;
  } else {
    return std::nullopt;
  }
  return verdict;
}

Outputs EnsembleCore::outputs_of(std::size_t slot, std::uint64_t number, const Verdict& verdict) {
  Outputs result;
  auto& answer = result.answer;
  bool is_late = verdict.failure == EnsembleFailure::Deadline;
  for (std::size_t member = 0; member < members().size(); ++member) {
    const auto state = verdict.parts[member].state;
    if (state == PartState::Done) continue;
    is_late = is_late || state == PartState::Skipped;
    missing_[member].fetch_add(1, std::memory_order_relaxed);
    answer.missing.push_back(members()[member].name());
    answer.reasons.push_back(why_missing(slot, member, verdict));
  }
  const auto answers = members().size() - answer.missing.size();
  if (answers < quorum_) {
    auto failure = is_late ? EnsembleFailure::Deadline : EnsembleFailure::MemberFailed;
    if (is_poison(channel(), slot, verdict)) failure = EnsembleFailure::Poison;
    throw error_of(
        number, answers, quorum_,
        verdict.failure == EnsembleFailure::Closed || verdict.failure == EnsembleFailure::Lost
            ? *verdict.failure
            : failure,
        answer, members().size());
  }
  const bool in_place = options().combine().reads_in_place() && !options().member_outputs();
  auto outputs = read_outputs(slot, verdict, in_place);
  if (in_place) {
    answer.output = options().combine()(outputs);
  } else {
    result.to_combine = std::move(outputs);
  }
  return result;
}

void EnsembleCore::combine(Outputs& outputs) {
  outputs.answer.output = options().combine()(outputs.to_combine);
  if (options().member_outputs()) outputs.answer.members = std::move(outputs.to_combine);
}

std::vector<MemberOutput> EnsembleCore::read_outputs(std::size_t slot, const Verdict& verdict,
                                                     bool in_place) {
  std::vector<MemberOutput> outputs;
  for (std::size_t member = 0; member < members().size(); ++member) {
    if (verdict.parts[member].state != PartState::Done) continue;
    auto output =
        areas_.read(slot, SlotAreas::output_of(member), channel().part(slot, member).output);
    outputs.push_back({member, members()[member].name(), in_place ? output : copy_of(output)});
  }
  return outputs;
}

std::string EnsembleCore::why_missing(std::size_t slot, std::size_t member,
                                      const Verdict& verdict) const {
  const auto state = verdict.parts[member].state;
  const auto& part = job_->channel->part(slot, member);
  if (state == PartState::Failed && part.failure == PartFailure::Exception) {
    return std::string("threw ") + part.text.data();
  }
  if (state == PartState::Failed && part.failure == PartFailure::GivenUp) return part.text.data();
  if (state == PartState::Failed) {
    const auto process = "the last, pid " + std::to_string(part.pid) + ", ";
    if (part.failure == PartFailure::Hung) {
      return "ended two processes with it: " + process + "took longer than the member_timeout of " +
             std::to_string(options().member_timeout().count()) + " ms, and was killed";
    }
    return "ended two processes with it: " + process + describe_end(part.wait_status);
  }
  if (verdict.failure == EnsembleFailure::Closed) return "had not answered before close()";
  if (verdict.failure == EnsembleFailure::Lost) {
    return "is lost: the parent process of the members has ended; build a new ensemble";
  }
  if (verdict.is_without_absent && state == PartState::Open) return why_absent(member);
  if (!verdict.failure && state != PartState::Skipped) {
    return "had not answered yet, when too few others were left";
  }
  const std::string limit = std::to_string(options().deadline().count()) + " ms";
  if (state == PartState::Running) return "had not answered within " + limit;
  std::string text = "had not begun within " + limit;
  if (!job_->channel->has_ready_copy(member)) text += "; it " + why_absent(member);
  return text;
}

std::string EnsembleCore::why_absent(std::size_t member) const {
  const auto& channel = *job_->channel;
  const auto& workers = channel.shape().member_of_worker;
  const auto worker =
      static_cast<std::size_t>(std::find(workers.begin(), workers.end(), member) - workers.begin());
  const auto words = channel.last_words(worker);
  return "is being started again; its last process " +
         (words.empty()
              ? describe_end(channel.workers()[worker].wait_status.load(std::memory_order_relaxed))
              : "said: " + words);
}

bool EnsembleCore::is_gone(std::size_t member) const {
  const auto& shape = job_->channel->shape();
  for (std::size_t worker = 0; worker < shape.member_of_worker.size(); ++worker) {
    if (shape.member_of_worker[worker] != member) continue;
    const auto state = job_->channel->workers()[worker].state.load(std::memory_order_acquire);
    if (state != WorkerState::GivenUp && state != WorkerState::StartFailed) return false;
  }
  return true;
}

std::string EnsembleCore::why_gone(std::size_t member) const {
  const auto& workers = job_->channel->shape().member_of_worker;
  const auto first = std::find(workers.begin(), workers.end(), member) - workers.begin();
  return "is gone for good: " + why_not_started(static_cast<std::size_t>(first));
}

EnsembleStatistics EnsembleCore::statistics() {
  EnsembleStatistics statistics;
  statistics.latency = latency_of(counts_.latency);
  statistics.submitted = counts_.submitted.load(std::memory_order_relaxed);
  statistics.answered = counts_.answered.load(std::memory_order_relaxed);
  statistics.failed = counts_.failed.load(std::memory_order_relaxed);
  statistics.cancelled = counts_.cancelled.load(std::memory_order_relaxed);
  statistics.refused = counts_.refused.load(std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    const auto finished = std::count_if(draining_.begin(), draining_.end(),
                                        [&](std::size_t slot) { return channel().is_over(slot); });
    statistics.in_flight =
        channel().shape().slots - free_.size() - static_cast<std::size_t>(finished);
  }
  for (std::size_t member = 0; member < members().size(); ++member) {
    statistics.members.push_back(statistics_of(member));
  }
  return statistics;
}

std::int64_t EnsembleCore::ready_copies_of(std::size_t member) const {
  std::int64_t ready = 0;
  const auto& channel = *job_->channel;
  for (std::size_t worker = 0; worker < channel.shape().member_of_worker.size(); ++worker) {
    const auto state = channel.workers()[worker].state.load(std::memory_order_acquire);
    if (channel.shape().member_of_worker[worker] == member && state == WorkerState::Running) {
      ++ready;
    }
  }
  return ready;
}

MemberStatistics EnsembleCore::statistics_of(std::size_t member) const {
  MemberStatistics statistics;
  const auto& channel = *job_->channel;
  const auto& words = channel.member(member);
  statistics.name = members()[member].name();
  statistics.copies = members()[member].copies();
  for (std::size_t worker = 0; worker < channel.shape().member_of_worker.size(); ++worker) {
    if (channel.shape().member_of_worker[worker] != member) continue;
    const auto& record = channel.workers()[worker];
    statistics.pids.push_back(options().kind() == WorkerKind::Thread
                                  ? ::getpid()
                                  : record.pid.load(std::memory_order_acquire));
    statistics.restarts += record.restarts.load(std::memory_order_relaxed);
  }
  // After the pids: a new process's is written when its copy is not ready any more, so that the
  // old process's readiness never comes with it.
  statistics.ready_copies = ready_copies_of(member);
  statistics.latency = latency_of(words.latency);
  statistics.compute = latency_of(words.compute);
  statistics.answered = words.answered.load(std::memory_order_relaxed);
  statistics.failed = words.failed.load(std::memory_order_relaxed);
  statistics.missing = missing_[member].load(std::memory_order_relaxed);
  for (const auto& word : channel.words_of(member)) {
    const auto state = PartWord::of(word.load(std::memory_order_relaxed)).state;
    if (state == PartState::Open) ++statistics.queue;
  }
  for (const auto& count : words.batch_sizes) {
    statistics.batch_sizes.push_back(count.load(std::memory_order_relaxed));
  }
  return statistics;
}

}  // namespace lockstep::inference::detail
