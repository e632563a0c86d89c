// SPDX-License-Identifier: BSD-3-Clause
// Step 5 of the way of a sample, in a worker process: a whole batch is built in its slot. Before
// it: shared_memory_channel brought the indices. After it: batch_builder writes each sample,
// process_source hands the slot out.
#include "data/batch_worker.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <stdexcept>

namespace lockstep::data::detail {

void BatchWorker::run(std::size_t worker) {
  // A thread pool that the rank had started does not exist after a fork; with one thread it is
  // never asked for. Not in the nursery: the call may start a thread, and who forks must have one
  // only.
  at::set_num_threads(1);
  const at::NoGradGuard no_grad;
  worker_ = worker;
  auto& record = channel_.board().workers[worker];
  try {
    if (init_) init_(worker);
  } catch (...) {
    throw std::runtime_error("worker_init failed: " + current_exception_message());
  }
  record.state.store(workers::WorkerState::Running, std::memory_order_release);
  while (const auto slot = channel_.claim(worker)) build(*slot);
}

void BatchWorker::build(std::size_t slot) {
  const auto items = channel_.items(slot);
  std::size_t row = 0;
  try {
    std::optional<torch::data::Example<>> first;
    if (layout_ || learn_layout(slot, first)) {
      const auto memory = rows(slot);
      if (first) {
        write_row(*first, layout_->sample, memory, row);
        channel_.set_progress(slot, ++row);
      }
      while (row < items.size() && !channel_.is_cancelled(slot) && !channel_.is_stopping()) {
        fetch_row(source_, static_cast<std::size_t>(items[row]), layout_->sample, memory, row);
        channel_.set_progress(slot, ++row);
      }
    }
  } catch (...) {
    channel_.fail(slot, row, current_exception_message());
    return;
  }
  channel_.finish(slot);
}

bool BatchWorker::learn_layout(std::size_t slot, std::optional<torch::data::Example<>>& first) {
  const auto sequence = channel_.sequence(slot);
  while (!channel_.is_cancelled(slot) && !channel_.is_stopping()) {
    const auto seen = channel_.work_count();
    const auto turn = shared().turn.load(std::memory_order_acquire);
    if (turn == SharedLayout::kSettled) {
      layout_.emplace(shared().sample, largest_batch_);
      return true;
    }
    if (turn == sequence) {
      if (!first) first = source_.get(static_cast<std::size_t>(channel_.items(slot)[0]));
      if (!publish_layout(sequence, SampleLayout::of(*first))) continue;
    } else {
      channel_.wait_work(seen, std::chrono::milliseconds(100));
    }
  }
  return false;
}

// The compare-and-swap keeps a cancelled batch's worker from deciding beside the one whose turn it
// is now.
bool BatchWorker::publish_layout(std::uint64_t sequence, const SampleLayout& sample) {
  const BatchLayout layout(sample, largest_batch_);
  auto& turn = shared().turn;
  auto expected = sequence;
  if (!turn.compare_exchange_strong(expected, SharedLayout::kSettling | worker_)) return false;
  try {
    channel_.ring().reserve_payload(layout.bytes * channel_.slots());
  } catch (...) {
    turn.store(sequence, std::memory_order_release);
    throw;
  }
  shared().sample = sample;
  turn.store(SharedLayout::kSettled, std::memory_order_release);
  channel_.wake_workers();
  return true;
}

BatchRows BatchWorker::rows(std::size_t slot) {
  std::byte* batch =
      channel_.ring().payload(layout_->bytes * channel_.slots()) + slot * layout_->bytes;
  return {batch, batch + layout_->target_offset};
}

SharedLayout& BatchWorker::shared() const {
  return *reinterpret_cast<SharedLayout*>(channel_.user_area());
}

}  // namespace lockstep::data::detail
