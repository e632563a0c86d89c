// SPDX-License-Identifier: BSD-3-Clause
// Step 5 of the way of a sample, in a worker: samples are fetched and written into the slot of
// their batch; whole_batches is for those that have no rows of their own in it. Before it:
// shared_memory_channel brought the indices. After it: sample_layout writes each sample,
// worker_source hands the slot out.
#include "data/loader/batch_worker.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/batch_places.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_policy.h"
#include "native/posix/thread_clock.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;

constexpr std::chrono::milliseconds kClockInterval{100};

std::uint64_t nanoseconds(std::chrono::steady_clock::duration time) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(time).count());
}

}  // namespace

void BatchWorker::run() {
  // A thread pool that the rank had started does not exist after a fork; with one thread it is
  // never asked for. Not in the nursery: the call may start a thread, and who forks must have one
  // only.
  if (job_.is_own_process) at::set_num_threads(1);
  if (!job_.cpus.empty()) native::pin_to_cpu(job_.cpus[worker_ % job_.cpus.size()]);
  const at::NoGradGuard no_grad;
  auto& record = channel_.board().workers[worker_];
  try {
    if (job_.init) job_.init(worker_);
  } catch (...) {
    throw std::runtime_error("worker_init failed: " + current_exception_message());
  }
  // Not before that: a seed that the program's function sets is not a sample's.
  using Seeds = SampleGenerator::ManualSeed;
  SampleGenerator generator(job_.is_own_process ? Seeds::Followed : Seeds::Ignored);
  const SampleGenerator::Use draws(generator);
  record.state.store(workers::WorkerState::Running, std::memory_order_release);
  since_ = clocks_read_ = Clock::now();
  while (const auto claim = channel_.claim(worker_)) {
    count_idle();
    work(*claim);
    count_busy();
  }
}

void BatchWorker::work(const Claim& claim) {
  std::size_t at = 0;
  try {
    if (job_.source.has_rows) {
      fill_rows(claim, at);
    } else {
      build_whole(claim, at);
    }
  } catch (...) {
    fail(claim, at);
    channel_.end_item(worker_);
    return;
  }
  channel_.end_item(worker_);
  // What was broken off is not finished.
  if (!channel_.is_stopping()) channel_.finish(claim);
}

void BatchWorker::fail(const Claim& claim, std::size_t at) {
  workers::Failure failure;
  failure.position = claim.first + std::min(at, claim.items.size() - 1);
  failure.worker = worker_;
  failure.pid = ::getpid();
  failure.type = current_exception_type();
  failure.message = current_exception_message();
  channel_.fail(claim, failure);
}

// Why the task goes on without an item, or with another one in its place. In a catch block only.
void BatchWorker::note(std::size_t slot, std::size_t position, std::int64_t item) {
  workers::Failure failure;
  failure.position = position;
  failure.worker = worker_;
  failure.item = item;
  failure.type = current_exception_type();
  failure.message = current_exception_message();
  channel_.note(slot, failure);
}

void BatchWorker::fill_rows(const Claim& claim, std::size_t& at) {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  Places places(*this, claim.slot);
  for (; at < claim.items.size(); ++at) {
    if (channel_.is_futile(claim) || channel_.is_stopping()) return;
    const auto row = claim.first + at;
    if (channel_.item(claim.slot, row) == workers::kLeftOut) continue;
    channel_.begin_item(worker_, claim.slot, row);
    if (!layout_ && shared().turn.load(std::memory_order_acquire) == SharedLayout::kSettled) {
      learn_layout();
    }
    auto* const memory = layout_ ? slot_memory(claim.slot) : nullptr;
    std::optional<SampleTree> sample;
    const bool is_there =
        have_sample(job_.facts.on_failed_sample, places, row, [&](std::int64_t index) {
          sample = memory != nullptr
                       ? fetch_for_row(job_.source, job_.seed, epoch, index, *layout_, memory, row)
                       : fetch(job_.source, job_.seed, epoch, index);
        });
    if (memory != nullptr && sample) write_row(*sample, *layout_, memory, row);
    channel_.end_item(worker_);
    if (memory != nullptr) continue;
    if (!is_there) {
      channel_.wake_workers();  // the next one may be the first now
    } else if (!write_first_row(claim, row, *sample)) {
      return;
    }
  }
}

// Of a worker that did not know the layout when it fetched the sample. False when the claim has
// become futile meanwhile.
bool BatchWorker::write_first_row(const Claim& claim, std::size_t row, const SampleTree& sample) {
  while (!layout_) {
    const auto is_ours = await_turn(claim, row);
    if (!is_ours) return false;
    // A worker that ends here ends at something, and not again and again.
    channel_.begin_item(worker_, claim.slot, workers::kNoItem);
    if (*is_ours) {
      std::size_t bytes = 0;
      const auto form = SampleLayout::of_rows(sample, job_.facts.largest_batch, bytes);
      if (!settle(claim, form.to_bytes(), bytes)) continue;
    }
    learn_layout();
  }
  write_row(sample, *layout_, slot_memory(claim.slot), row);
  channel_.end_item(worker_);
  return true;
}

std::optional<bool> BatchWorker::await_turn(const Claim& claim, std::size_t position) {
  const auto sequence = channel_.sequence(claim.slot);
  const auto is_first = [&] {
    for (std::size_t before = 0; before < position; ++before) {
      if (!channel_.is_left_out(claim.slot, before)) return false;
    }
    return true;
  };
  while (!channel_.is_futile(claim) && !channel_.is_stopping()) {
    const auto seen = channel_.work_count();
    const auto turn = shared().turn.load(std::memory_order_acquire);
    if (turn == SharedLayout::kSettled) return false;
    if (turn == sequence && is_first()) return true;
    channel_.end_item(worker_);  // waiting is not hanging
    channel_.wait_work(worker_, seen);
  }
  return std::nullopt;
}

// The compare-and-swap keeps a withdrawn batch's worker from deciding beside the one whose turn it
// is now.
bool BatchWorker::settle(const Claim& claim, const std::string& form, std::size_t slot_bytes) {
  auto& common = shared();
  auto expected = channel_.sequence(claim.slot);
  const auto sequence = expected;
  if (!common.turn.compare_exchange_strong(expected, SharedLayout::kSettling | worker_)) {
    return false;
  }
  try {
    common.layout_bytes = form.size();
    common.slot_bytes = native::MemoryRing::round_up_to_page(slot_bytes);
    TORCH_CHECK(common.slot_bytes < (std::size_t{1} << 56) / channel_.slots(), "a batch of ",
                slot_bytes, " bytes is too large");
    const auto payload = common.payload_bytes(channel_.slots());
    // The slots follow when they are first written to: the first batch need not wait for all.
    common.payload_offset = channel_.take_space(payload);
    channel_.ring().announce_payload(common.payload_offset, payload);
    if (!form.empty()) channel_.ring().reserve(common.payload_offset, common.slots_offset());
    // Last of all that can fail: whoever tries again may need another size, and this stays.
    auto* memory = SharedLayout::payload(channel_);
    if (!form.empty()) std::memcpy(memory, form.data(), form.size());
  } catch (...) {
    common.turn.store(sequence, std::memory_order_release);
    throw;
  }
  common.turn.store(SharedLayout::kSettled, std::memory_order_release);
  channel_.wake_workers();
  return true;
}

void BatchWorker::learn_layout() {
  const auto& common = shared();
  const auto* payload = SharedLayout::payload(channel_);
  layout_ = SampleLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
}

std::byte* BatchWorker::slot_memory(std::size_t slot) {
  const auto& common = shared();
  auto* payload = SharedLayout::payload(channel_);
  const auto offset = common.slots_offset() + slot * common.slot_bytes;
  if (!has_slot_[slot]) {
    reserve_slot(offset, common.slot_bytes);
    has_slot_[slot] = true;
  }
  return payload + offset;
}

// Each worker begins at a place of its own: those that come to a new slot together share the work.
void BatchWorker::reserve_slot(std::size_t offset, std::size_t bytes) {
  const auto page = native::MemoryRing::round_up_to_page(1);
  const auto start = bytes / page * worker_ / channel_.workers() * page;
  channel_.ring().reserve_part(offset + start, bytes - start);
  channel_.ring().reserve_part(offset, start);
}

void BatchWorker::count_idle() {
  const auto now = Clock::now();
  auto& idle = channel_.board().workers[worker_].idle;
  idle.store(idle.load(std::memory_order_relaxed) + nanoseconds(now - since_),
             std::memory_order_relaxed);
  since_ = now;
}

void BatchWorker::count_busy() {
  const auto now = Clock::now();
  auto& record = channel_.board().workers[worker_];
  record.busy.store(record.busy.load(std::memory_order_relaxed) + nanoseconds(now - since_),
                    std::memory_order_relaxed);
  since_ = now;
  if (now - clocks_read_ < kClockInterval) return;  // asking costs system calls
  clocks_read_ = now;
  const auto clock = native::thread_clock();
  record.on_cpu.store(record.on_cpu.load(std::memory_order_relaxed) + clock.on_cpu -
                          std::exchange(on_cpu_, clock.on_cpu),
                      std::memory_order_relaxed);
  record.delayed.store(record.delayed.load(std::memory_order_relaxed) + clock.delayed -
                           std::exchange(delayed_, clock.delayed),
                       std::memory_order_relaxed);
}

}  // namespace lockstep::data::detail
