// SPDX-License-Identifier: BSD-3-Clause
// Step 5 of the way of a sample, in a worker: samples are fetched and written into the slot of
// their batch. Before it: shared_memory_channel brought the indices. After it: sample_layout writes
// each sample, worker_source hands the slot out.
#include "data/batch_worker.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "data/batch_builder.h"
#include "native/posix/thread_clock.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {
namespace {

using workers::Claim;

constexpr std::chrono::milliseconds kClockInterval{100};
// Batches that are built as a whole may be somewhat larger than the first.
constexpr std::size_t kHeadroom = 4;  // a quarter
constexpr std::size_t kLine = 64;

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

void BatchWorker::fill_rows(const Claim& claim, std::size_t& at) {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  for (; at < claim.items.size(); ++at) {
    if (channel_.is_futile(claim) || channel_.is_stopping()) return;
    const auto item = claim.items[at];
    if (item == workers::kLeftOut) continue;
    const auto row = claim.first + at;
    channel_.begin_item(worker_, claim.slot, row);
    if (!layout_ && shared().turn.load(std::memory_order_acquire) == SharedLayout::kSettled) {
      learn_layout();
    }
    if (layout_) {
      fetch_row(job_.source, job_.seed, epoch, item, *layout_, slot_memory(claim.slot), row);
      channel_.end_item(worker_);
      continue;
    }
    const Value sample = fetch(job_.source, job_.seed, epoch, item);
    channel_.end_item(worker_);
    while (!layout_) {
      const auto is_ours = await_turn(claim, row);
      if (!is_ours) return;
      // A worker that ends here ends at something, and not again and again.
      channel_.begin_item(worker_, claim.slot, workers::kNoItem);
      if (*is_ours) {
        std::size_t bytes = 0;
        const auto form = ValueLayout::of_rows(sample, job_.facts.largest_batch, bytes);
        if (!settle(claim, form.to_bytes(), bytes)) continue;
      }
      learn_layout();
    }
    write_row(sample, *layout_, slot_memory(claim.slot), row);
    channel_.end_item(worker_);
  }
}

void BatchWorker::build_whole(const Claim& claim, std::size_t& at) {
  channel_.set_result(claim.slot, kRows, 0);
  std::vector<Value> samples;
  if (job_.source.open) {
    channel_.begin_item(worker_, claim.slot, 0);
    auto read = read_stream(claim);
    if (!read) return;
    samples = std::move(*read);
  } else {
    const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
    for (; at < claim.items.size(); ++at) {
      if (channel_.is_futile(claim) || channel_.is_stopping()) return;
      if (claim.items[at] == workers::kLeftOut) continue;
      channel_.begin_item(worker_, claim.slot, at);
      samples.push_back(fetch(job_.source, job_.seed, epoch, claim.items[at]));
      channel_.end_item(worker_);
    }
  }
  at = 0;  // what goes wrong now is nobody's sample; the first stands for all
  channel_.set_result(claim.slot, kRows, samples.size());
  if (samples.empty() ||
      (job_.source.open && job_.facts.drop_last && samples.size() < job_.facts.batch_size)) {
    return;
  }
  channel_.begin_item(worker_, claim.slot, workers::kNoItem);
  put_whole(claim, collate(job_.source, std::move(samples)));
}

void BatchWorker::put_whole(const Claim& claim, const Value& batch) {
  WholeHeader header;
  std::size_t leaves = 0;
  const auto layout = ValueLayout::of_whole(batch, leaves);
  const auto form = layout.to_bytes();
  header.form_bytes = form.size();
  header.leaves_offset = (sizeof(header) + form.size() + kLine - 1) / kLine * kLine;
  header.leaves_bytes = leaves;
  const auto bytes = static_cast<std::size_t>(header.leaves_offset) + leaves;
  for (;;) {
    const auto is_ours = await_turn(claim, 0);
    if (!is_ours) return;
    channel_.begin_item(worker_, claim.slot, workers::kNoItem);
    if (!*is_ours || settle(claim, "", bytes + bytes / kHeadroom)) break;
  }
  auto& common = shared();
  const auto payload = common.payload_bytes(channel_.slots());
  drop_piece_of_the_dead(claim.slot, payload);
  std::byte* memory = nullptr;
  std::size_t piece_bytes = 0;
  if (bytes <= common.slot_bytes) {
    memory = slot_memory(claim.slot);
  } else {
    piece_bytes = native::MemoryRing::round_up_to_page(bytes);
    const auto offset = common.pieces_end.fetch_add(piece_bytes, std::memory_order_relaxed);
    // Said before there is memory, so that it can be given back if this worker dies here.
    channel_.set_result(claim.slot, kPiece, offset);
    channel_.set_result(claim.slot, kPieceBytes, piece_bytes);
    channel_.ring().reserve_piece(payload, offset, piece_bytes);
    memory = channel_.ring().map_piece(payload, offset, piece_bytes);
  }
  std::memcpy(memory, &header, sizeof(header));
  std::memcpy(memory + sizeof(header), form.data(), form.size());
  write_whole(batch, layout, memory + header.leaves_offset);
  if (piece_bytes != 0) native::MemoryRing::unmap_piece(memory, piece_bytes);
}

// Of a worker that died in `put_whole` before this one. What this one writes may fit the slot.
void BatchWorker::drop_piece_of_the_dead(std::size_t slot, std::size_t payload) {
  const auto bytes = static_cast<std::size_t>(channel_.result(slot, kPieceBytes));
  if (bytes == 0) return;
  const auto offset = static_cast<std::size_t>(channel_.result(slot, kPiece));
  channel_.set_result(slot, kPieceBytes, 0);
  channel_.ring().free_piece(payload, offset, bytes);
}

// A shard that another worker was at begins anew, and what has been delivered of it is passed over.
std::optional<std::vector<Value>> BatchWorker::read_stream(const Claim& claim) {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  const auto word = channel_.word(claim.slot, kShard);
  const auto shard = static_cast<std::size_t>(word & ((1U << 20) - 1));
  const auto number = static_cast<std::uint64_t>(claim.items[0]);
  auto& state = streams_[shard];
  if (!state.stream || state.word != word || state.next > number) {
    state.stream = job_.source.open();
    state.stream->reset(job_.facts.shard(shard), job_.facts.all_shards, epoch);
    state.word = word;
    state.next = 0;
  }
  std::vector<Value> samples;
  for (; state.next <= number; ++state.next) {
    samples.clear();
    while (samples.size() < job_.facts.batch_size) {
      if (channel_.is_futile(claim) || channel_.is_stopping()) {
        state.stream.reset();
        return std::nullopt;
      }
      channel_.begin_item(worker_, claim.slot, 0);
      auto sample = state.stream->next();
      if (!sample) break;
      samples.push_back(std::move(*sample));
    }
  }
  return samples;
}

std::optional<bool> BatchWorker::await_turn(const Claim& claim, std::size_t position) {
  const auto sequence = channel_.sequence(claim.slot);
  const auto is_first = [&] {
    for (std::size_t before = 0; before < position; ++before) {
      if (!channel_.is_skipped(claim.slot, before)) return false;
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
    channel_.ring().announce_payload(payload);
    auto* memory = channel_.ring().payload(payload);
    channel_.ring().reserve_part(0, common.slots_offset());
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
  const auto* payload = channel_.ring().payload(common.payload_bytes(channel_.slots()));
  layout_ = ValueLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
}

std::byte* BatchWorker::slot_memory(std::size_t slot) {
  const auto& common = shared();
  auto* payload = channel_.ring().payload(common.payload_bytes(channel_.slots()));
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
