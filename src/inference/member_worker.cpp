// SPDX-License-Identifier: BSD-3-Clause
#include "inference/member_worker.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <thread>
#include <utility>

#include "native/posix/heap.h"
#include "workers/exception_text.h"
#include "workers/fixed_text.h"
#include "workers/task_errors.h"

namespace lockstep::inference::detail {
namespace {

using std::chrono::nanoseconds;

// "std::runtime_error: no room". In a catch block only.
std::string describe_current_exception() {
  std::string text = workers::current_exception_type();
  text += ": ";
  text += workers::current_task_exception_text();
  std::replace(text.begin(), text.end(), '\n', ' ');  // it becomes part of a line
  return text;
}

// The model may be called for one request alone, whose memory is that of all members.
void check_not_written(const at::Tensor& input) {
  TORCH_CHECK(input._version() == 0,
              "the model writes to its input, which all members read; let it work on a clone");
}

}  // namespace

MemberWorker::MemberWorker(MemberJob& job, std::size_t worker)
    : job_(job),
      channel_(*job.channel),
      worker_(worker),
      member_(channel_.shape().member_of_worker[worker]),
      record_(channel_.workers()[worker]),
      is_process_(job.options.kind() == WorkerKind::Process),
      areas_(job.channel, is_process_),
      spin_(job.spin) {}

void MemberWorker::run() {
  pause_before_start();
  if (is_stopping()) return;
  make_model();
  channel_.restarts(worker_).ready_since.store(now_ns(), std::memory_order_relaxed);
  // The fork server may not have come to writing it.
  if (is_process_) record_.pid.store(::getpid(), std::memory_order_release);
  record_.state.store(workers::WorkerState::Running, std::memory_order_release);
  channel_.table().events.wake_owner();
  serve();
}

bool MemberWorker::is_stopping() const {
  return channel_.table().events.is_stopping();
}

// Not before the first start, nor after the first end; then longer and longer.
void MemberWorker::pause_before_start() {
  const auto ends = channel_.restarts(worker_).ends_in_a_row.load(std::memory_order_relaxed);
  if (ends < 2) return;
  constexpr std::uint32_t kMostDoublings = 20;
  const auto longest = job_.options.longest_restart_pause();
  auto pause = nanoseconds(job_.options.restart_pause());
  for (std::uint32_t at = 0; at < std::min(ends - 2, kMostDoublings) && pause < longest; ++at) {
    pause *= 2;
  }
  pause = std::min<nanoseconds>(pause, longest);
  const auto end = now_ns() + static_cast<std::uint64_t>(pause.count());
  for (auto now = now_ns(); now < end && !is_stopping(); now = now_ns()) {
    record_.heartbeats.fetch_add(1,
                                 std::memory_order_release);  // so that nobody takes it for stuck
    channel_.wait_for_work(worker_, channel_.work_count(), nanoseconds(end - now));
  }
}

void MemberWorker::make_model() {
  const Member& member = job_.members[member_];
  const std::lock_guard lock(job_.making);
  // Asking LibTorch for the number of threads of a new thread sets it to that of the process, once.
  static_cast<void>(at::get_num_threads());
  at::set_num_threads(static_cast<int>(member.threads()));
  auto make = member.make();  // a copy: a factory need not be safe to call by several threads
  call_ = make(member.device());
  if (!job_.options.sample().defined()) return;
  // Outside of inference mode, so that a write to it is counted.
  const auto sample = job_.options.sample().detach().clone();
  const c10::InferenceMode guard;
  const auto input = job_.options.batch_form() == BatchForm::Samples ? sample.unsqueeze(0) : sample;
  static_cast<void>(call_(input.to(member.device())));
  check_not_written(sample);
}

void MemberWorker::serve() {
  while (!is_stopping()) {
    const auto seen = channel_.work_count();
    take_batch();
    if (batch_.empty()) {
      rest(seen);
    } else {
      answer_batch();
    }
  }
}

void MemberWorker::rest(std::uint32_t seen) {
  const auto is_idle = [&] { return channel_.work_count() == seen; };
  if (spin_.spin_while_so(RequestChannel::kSlice, is_idle)) return;
  channel_.wait_for_work(worker_, seen, RequestChannel::kSlice);
}

void MemberWorker::take_batch() {
  batch_.clear();
  Taken first;
  while (batch_.empty() && channel_.find_oldest(member_, first.slot, first.sequence)) {
    more_.assign(1, first);
    const auto ends = channel_.part(first.slot, member_).ends.load(std::memory_order_relaxed);
    // A request that has ended a process already is called alone, so that it takes no other along.
    if (job_.options.max_batch() > 1 && ends == 0 && !gather(first)) continue;
    claim_gathered();
  }
}

// Waits until there is enough, or the first has waited enough. False when another copy took it.
bool MemberWorker::gather(const Taken& first) {
  const auto delay = static_cast<std::uint64_t>(
      std::chrono::duration_cast<nanoseconds>(job_.options.max_delay()).count());
  const auto end = channel_.slot(first.slot).submitted.load(std::memory_order_relaxed) + delay;
  while (true) {
    const auto seen = channel_.work_count();
    const auto word = channel_.word(first.slot, member_);
    if (word.state != PartState::Open || word.sequence != first.sequence) return false;
    const auto now = now_ns();
    if (look_for_more(first) || now >= end || is_stopping()) return true;
    channel_.wait_for_work(worker_, seen, nanoseconds(end - now));
  }
}

// The oldest that fit, in their order; true when there is no room for one more.
bool MemberWorker::look_for_more(const Taken& first) {
  const auto key = channel_.slot(first.slot).batch_key.load(std::memory_order_relaxed);
  auto rows = channel_.slot(first.slot).rows.load(std::memory_order_relaxed);
  const auto most = static_cast<std::uint64_t>(job_.options.max_batch());
  more_.assign(1, first);
  const auto words = channel_.words_of(member_);
  for (std::size_t slot = 0; slot < words.size(); ++slot) {
    const auto word = PartWord::of(words[slot].load(std::memory_order_acquire));
    if (word.state != PartState::Open || slot == first.slot ||
        channel_.slot(slot).batch_key.load(std::memory_order_relaxed) != key ||
        channel_.part(slot, member_).ends.load(std::memory_order_relaxed) != 0) {
      continue;
    }
    more_.push_back({slot, word.sequence, 1});
  }
  std::sort(more_.begin() + 1, more_.end(),
            [](const Taken& a, const Taken& b) { return a.sequence < b.sequence; });
  for (std::size_t kept = 1; kept < more_.size(); ++kept) {
    rows += channel_.slot(more_[kept].slot).rows.load(std::memory_order_relaxed);
    if (rows <= most) continue;
    more_.resize(kept);
    return true;
  }
  return rows >= most;
}

void MemberWorker::claim_gathered() {
  for (auto& taken : more_) {
    if (!channel_.claim(worker_, taken.slot, taken.sequence)) {
      if (batch_.empty()) return;
      continue;
    }
    const bool is_first = batch_.empty();
    if (!is_first && !fits(taken.slot)) {  // another shape with the same key
      channel_.give_back(worker_, taken.slot, taken.sequence);
      continue;
    }
    taken.rows =
        static_cast<std::int64_t>(channel_.slot(taken.slot).rows.load(std::memory_order_relaxed));
    batch_.push_back(taken);
  }
}

// Whether the input can be put beside that of the first one of the batch.
bool MemberWorker::fits(std::size_t slot) const {
  auto first = channel_.slot(batch_.front().slot).input;
  auto other = channel_.slot(slot).input;
  if (job_.options.batch_form() == BatchForm::Rows) {
    first.sizes[0] = other.sizes[0] = 0;
    first.bytes = other.bytes = 0;
  }
  return first == other;
}

void MemberWorker::answer_batch() {
  record_.current_item.store(workers::CurrentItem{batch_.front().slot, 0}.word(),
                             std::memory_order_release);
  answer(batch_);
  record_.current_item.store(workers::CurrentItem::kNothing, std::memory_order_release);
}

void MemberWorker::answer(std::span<const Taken> batch) {
  std::size_t written = 0;
  try {
    record_.heartbeats.fetch_add(1, std::memory_order_release);
    const auto output = call_model(batch);
    std::int64_t row = 0;
    for (const auto& taken : batch) {
      if (job_.options.batch_form() == BatchForm::Samples) {
        write_output(taken, output.select(0, row));
      } else {
        write_output(taken, batch.size() == 1 ? output : output.narrow(0, row, taken.rows));
      }
      row += taken.rows;
      ++written;
    }
  } catch (...) {
    if (batch.size() == 1) return fail(batch.front(), describe_current_exception());
    // The error is that of the request at fault alone.
    for (const auto& taken : batch.subspan(written)) answer({&taken, 1});
  }
}

at::Tensor MemberWorker::call_model(std::span<const Taken> batch) {
  std::vector<at::Tensor> inputs;
  for (const auto& taken : batch) inputs.push_back(input_of(taken));
  const c10::InferenceMode guard;
  const bool is_samples = job_.options.batch_form() == BatchForm::Samples;
  auto input = batch.size() > 1 ? (is_samples ? at::stack(inputs) : at::cat(inputs))
                                : (is_samples ? inputs.front().unsqueeze(0) : inputs.front());
  const auto begin = now_ns();
  auto output = call_(input.to(job_.members[member_].device()));
  auto& words = channel_.member(member_);
  words.compute.add(now_ns() - begin);
  words.batch_sizes[std::min(batch.size(), MemberWords::kMostCounted) - 1].fetch_add(
      1, std::memory_order_relaxed);
  check_not_written(inputs.front());
  TORCH_CHECK(output.defined(), "the model returned an undefined tensor");
  std::int64_t rows = 0;
  for (const auto& taken : batch) rows += taken.rows;
  TORCH_CHECK((batch.size() == 1 && !is_samples) || (output.dim() > 0 && output.size(0) == rows),
              "the model returned ", output.sizes(), " for a batch of ", rows,
              "; the first dimension must be that of the batch");
  return output;
}

// Outside of inference mode, so that a write to it is counted.
at::Tensor MemberWorker::input_of(const Taken& taken) {
  return areas_.read(taken.slot, SlotAreas::kInput, channel_.slot(taken.slot).input);
}

void MemberWorker::write_output(const Taken& taken, const at::Tensor& output) {
  const c10::InferenceMode guard;
  auto& part = channel_.part(taken.slot, member_);
  areas_.write(taken.slot, SlotAreas::output_of(member_), output, part.output);
  auto& words = channel_.member(member_);
  auto& slot = channel_.slot(taken.slot);
  const auto now = now_ns();
  words.latency.add(now - slot.submitted.load(std::memory_order_relaxed));
  slot.ended.store(now, std::memory_order_relaxed);
  words.answered.fetch_add(1, std::memory_order_relaxed);
  channel_.finish(worker_, taken.slot, taken.sequence, PartState::Done);
}

void MemberWorker::fail(const Taken& taken, const std::string& text) {
  auto& part = channel_.part(taken.slot, member_);
  part.failure = PartFailure::Exception;
  workers::copy_text(part.text, text);
  channel_.member(member_).failed.fetch_add(1, std::memory_order_relaxed);
  channel_.slot(taken.slot).ended.store(now_ns(), std::memory_order_relaxed);
  channel_.finish(worker_, taken.slot, taken.sequence, PartState::Failed);
}

void run_member(MemberJob& job, std::size_t worker) {
  const auto run = [&] {
    try {
      MemberWorker(job, worker).run();
    } catch (...) {
      // As text: a c10::Error would bring its backtrace along.
      throw std::runtime_error(describe_current_exception());
    }
  };
  if (job.options.kind() != WorkerKind::Process) return run();
  // What one call frees, the next one needs: faulting pages in again costs a small model more than
  // its arithmetic.
  native::retain_freed_memory();
  std::exception_ptr error;
  std::thread thread([&] {
    try {
      run();
    } catch (...) {
      error = std::current_exception();
    }
  });
  thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace lockstep::inference::detail
