// SPDX-License-Identifier: BSD-3-Clause
// Step 4 of the way of a sample: the words that the rank and its workers pass each other. Before
// it: the worker host starts the workers. After it: batch_worker fetches the samples.
#include "workers/shared_memory_channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include "native/posix/futex.h"
#include "native/posix/posix_check.h"
#include "workers/channel_layout.h"
#include "workers/chunk_state.h"

namespace lockstep::workers {
namespace {

// Of a task's items, what is worth fetching ahead: those behind come while these are written.
constexpr std::size_t kFirstItems = 16 * kLine;

template <std::size_t Size>
std::string text_of(const std::array<char, Size>& record) {
  return {record.data(), ::strnlen(record.data(), record.size())};
}

}  // namespace

std::size_t SharedMemoryChannel::failure_records() const noexcept {
  return std::min({shape_.items_per_slot, shape_.workers + 2, kMaxFailureRecords});
}

// One record more: for a note.
std::size_t SharedMemoryChannel::stride() const noexcept {
  return round_up((failure_records() + 1) * sizeof(FailureRecord)) +
         round_up(chunks() * sizeof(std::atomic<std::uint32_t>)) +
         round_up(chunks() * sizeof(std::uint32_t)) +
         round_up(shape_.items_per_slot * sizeof(std::int64_t)) +
         round_up(blocks() * sizeof(BlockWords));
}

// At most one an item, and the collate task.
std::size_t SharedMemoryChannel::chunks() const noexcept {
  return shape_.items_per_slot + 1;
}

std::size_t SharedMemoryChannel::blocks() const noexcept {
  return kItemBlocks + (shape_.has_item_blocks ? shape_.items_per_slot : 0);
}

SharedMemoryChannel::SharedMemoryChannel(const Shape& shape)
    : shape_(shape),
      slot_stride_([&] {
        constexpr std::size_t kLargest = std::size_t{1} << 56;
        const auto per_item = sizeof(std::int64_t) + sizeof(std::atomic<std::uint32_t>) +
                              sizeof(std::uint32_t) +
                              (shape.has_item_blocks ? sizeof(BlockWords) : 0);
        if (shape.items_per_slot > kLargest / per_item / shape.slots) {
          native::throw_errno(
              "shared memory for data workers: " + std::to_string(shape.items_per_slot) +
                  " samples in a batch are too many",
              ENOMEM);
        }
        return stride();
      }()),
      region_(round_up(sizeof(Header)) + sizeof(PoolEventWords) +
              round_up(shape.workers * sizeof(WorkerRecord)) + round_up(shape.user_bytes) +
              shape.slots * (round_up(sizeof(Slot)) + slot_stride_)) {
  header_ = std::construct_at(reinterpret_cast<Header*>(region_.control()));
  header_->control_bytes = region_.control_bytes();
  header_->magic = Header::kMagic;
  header_->shape = shape;
  lay_out(true);
}

SharedMemoryChannel::SharedMemoryChannel(native::FileDescriptor descriptor)
    : region_(std::move(descriptor)) {
  header_ = reinterpret_cast<Header*>(region_.control());
  if (region_.control_bytes() < sizeof(Header) || header_->magic != Header::kMagic) {
    native::throw_errno("shared memory for data workers: the rank runs another program", EPROTO);
  }
  shape_ = header_->shape;
  slot_stride_ = stride();
  lay_out(false);
}

// Fresh pages of a memfd are zero, which is a valid first value of everything here.
void SharedMemoryChannel::lay_out(bool is_new) {
  std::byte* next = region_.control() + round_up(sizeof(Header));
  table_.events = reinterpret_cast<PoolEventWords*>(next);
  next += sizeof(PoolEventWords);
  auto* records = reinterpret_cast<WorkerRecord*>(next);
  table_.workers = {records, shape_.workers};
  next += round_up(shape_.workers * sizeof(WorkerRecord));
  user_area_ = next;
  slots_ = next + round_up(shape_.user_bytes);
  slot_parts_ = slots_ + shape_.slots * round_up(sizeof(Slot));
  if (!is_new) return;
  std::construct_at(table_.events);
  std::uninitialized_value_construct_n(records, shape_.workers);
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) {
    std::construct_at(&at(slot));
    std::uninitialized_value_construct_n(chunks_of(slot), chunks());
    std::uninitialized_value_construct_n(failure_records_of(slot), failure_records() + 1);
    std::uninitialized_value_construct_n(blocks_of(slot), blocks());
  }
}

SharedMemoryChannel::Slot& SharedMemoryChannel::at(std::size_t slot) const noexcept {
  return *reinterpret_cast<Slot*>(slots_ + slot * round_up(sizeof(Slot)));
}

SharedMemoryChannel::FailureRecord* SharedMemoryChannel::failure_records_of(
    std::size_t slot) const noexcept {
  return reinterpret_cast<FailureRecord*>(slot_parts_ + slot * slot_stride_);
}

std::atomic<std::uint32_t>* SharedMemoryChannel::chunks_of(std::size_t slot) const noexcept {
  return reinterpret_cast<std::atomic<std::uint32_t>*>(
      reinterpret_cast<std::byte*>(failure_records_of(slot)) +
      round_up((failure_records() + 1) * sizeof(FailureRecord)));
}

std::uint32_t* SharedMemoryChannel::ends_of(std::size_t slot) const noexcept {
  return reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::byte*>(chunks_of(slot)) +
                                          round_up(chunks() * sizeof(std::atomic<std::uint32_t>)));
}

std::int64_t* SharedMemoryChannel::items_of(std::size_t slot) const noexcept {
  return reinterpret_cast<std::int64_t*>(reinterpret_cast<std::byte*>(ends_of(slot)) +
                                         round_up(chunks() * sizeof(std::uint32_t)));
}

SharedMemoryChannel::BlockWords* SharedMemoryChannel::blocks_of(std::size_t slot) const noexcept {
  return reinterpret_cast<BlockWords*>(reinterpret_cast<std::byte*>(items_of(slot)) +
                                       round_up(shape_.items_per_slot * sizeof(std::int64_t)));
}

SlotState SharedMemoryChannel::state(std::size_t slot) const {
  return slot_state(at(slot).state.load(std::memory_order_acquire));
}

std::uint64_t SharedMemoryChannel::sequence(std::size_t slot) const {
  return at(slot).sequence.load(std::memory_order_relaxed);
}

std::span<const std::int64_t> SharedMemoryChannel::items(std::size_t slot) const {
  return {items_of(slot), at(slot).count};
}

std::int64_t SharedMemoryChannel::item(std::size_t slot, std::size_t position) const {
  return std::atomic_ref(items_of(slot)[position]).load(std::memory_order_acquire);
}

void SharedMemoryChannel::set_item(std::size_t slot, std::size_t position, std::int64_t item) {
  std::atomic_ref(items_of(slot)[position]).store(item, std::memory_order_release);
}

std::uint64_t SharedMemoryChannel::word(std::size_t slot, std::size_t number) const {
  return at(slot).words[number];
}

std::uint64_t SharedMemoryChannel::result(std::size_t slot) const {
  return at(slot).result.load(std::memory_order_relaxed);
}

void SharedMemoryChannel::set_result(std::size_t slot, std::uint64_t value) {
  at(slot).result.store(value, std::memory_order_relaxed);
}

std::optional<std::size_t> SharedMemoryChannel::first_failed(std::size_t slot) const {
  const auto position = at(slot).first_failed.load(std::memory_order_acquire);
  if (position == Slot::kNoFailure) return std::nullopt;
  return static_cast<std::size_t>(position);
}

void SharedMemoryChannel::expect_states() const noexcept {
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) __builtin_prefetch(&at(slot).state);
}

void SharedMemoryChannel::expect_assign(std::size_t slot, std::size_t items) const noexcept {
  const auto expect = [](const void* words, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(words);
    for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(first + at, 1);
  };
  expect(&at(slot), sizeof(Slot));
  expect(chunks_of(slot), kLine);
  expect(ends_of(slot), kLine);
  expect(items_of(slot), std::min<std::size_t>(items * sizeof(std::int64_t), kFirstItems));
  expect(blocks_of(slot), kLine);
}

void SharedMemoryChannel::assign(std::size_t slot, const Task& task) {
  Slot& target = at(slot);
  std::copy(task.items.begin(), task.items.end(), items_of(slot));
  const Chunks cut{(task.items.size() + task.items_per_chunk - 1) / task.items_per_chunk,
                   task.has_collate_task};
  const auto chunks = cut.all();
  target.count.store(static_cast<std::uint32_t>(task.items.size()), std::memory_order_relaxed);
  target.items_per_chunk.store(static_cast<std::uint32_t>(task.items_per_chunk),
                               std::memory_order_relaxed);
  target.chunks.store(cut.word(), std::memory_order_relaxed);
  target.words = task.words;
  std::fill_n(ends_of(slot), chunks, 0U);
  target.result.store(0, std::memory_order_relaxed);
  // Delivered with the batch; the items' have been freed.
  blocks_of(slot)[kResultBlock].bytes.store(0, std::memory_order_relaxed);
  target.worker.store(task.worker, std::memory_order_relaxed);
  target.sequence.store(task.sequence, std::memory_order_relaxed);
  target.withdrawn.store(0, std::memory_order_relaxed);
  target.replaced.store(0, std::memory_order_relaxed);
  target.finished.store(0, std::memory_order_relaxed);
  target.is_suspect.store(0, std::memory_order_relaxed);
  target.items_done.store(0, std::memory_order_relaxed);
  target.failure_records_taken.store(0, std::memory_order_relaxed);
  target.first_failed.store(Slot::kNoFailure, std::memory_order_relaxed);
  // A worker that still looks at the task before this one may claim a chunk as soon as its word
  // says so; it finds all of the above written then.
  for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
    chunks_of(slot)[chunk].store(chunk_word(ChunkState::Open), std::memory_order_release);
  }
  restart_hint(target.hint);  // after that: who found nothing open before does not say so now
  // A new number, so that nobody completes this task who looked at the one before it.
  const auto number = (target.state.load(std::memory_order_relaxed) >> kStateBits) + 1;
  target.state.store(with_state(number << kStateBits, SlotState::Filling),
                     std::memory_order_seq_cst);
  complete_if_all_done(slot);  // if somebody was as quick as that
}

void SharedMemoryChannel::hold(std::size_t slot) {
  auto& word = at(slot).state;
  word.store(with_state(word.load(std::memory_order_relaxed), SlotState::Held),
             std::memory_order_relaxed);
}

void SharedMemoryChannel::release(std::size_t slot) noexcept {
  auto& word = at(slot).state;
  word.store(with_state(word.load(std::memory_order_relaxed), SlotState::Free),
             std::memory_order_release);
}

std::uint64_t SharedMemoryChannel::progress(std::size_t slot) const {
  const Slot& target = at(slot);
  return target.finished.load(std::memory_order_relaxed) +
         std::uint64_t{target.items_done.load(std::memory_order_relaxed)};
}

std::optional<std::size_t> SharedMemoryChannel::claimer(std::size_t slot) const {
  for (std::size_t chunk = 0; chunk < Chunks::of(at(slot)).all(); ++chunk) {
    const auto value = chunks_of(slot)[chunk].load(std::memory_order_acquire);
    if (state_of(value) == ChunkState::Claimed) return worker_of(value);
  }
  return std::nullopt;
}

std::optional<Failure> SharedMemoryChannel::failure(std::size_t slot) const {
  const auto position = first_failed(slot);
  if (!position) return std::nullopt;
  Failure failure;
  failure.position = *position;
  failure.message = "too many samples of this batch failed at once to keep what each of them said";
  const auto taken = std::min<std::size_t>(
      at(slot).failure_records_taken.load(std::memory_order_relaxed), failure_records());
  for (std::size_t number = 0; number < taken; ++number) {
    const FailureRecord& record = failure_records_of(slot)[number];
    if (record.sequence.load(std::memory_order_acquire) != sequence(slot) + 1) continue;
    if (record.position != *position) continue;
    read_record(slot, number, failure);
  }
  return failure;
}

void SharedMemoryChannel::read_record(std::size_t slot, std::size_t number,
                                      Failure& failure) const {
  const FailureRecord& record = failure_records_of(slot)[number];
  failure.kind = record.kind;
  failure.worker = record.worker;
  failure.pid = record.pid;
  failure.wait_status = record.wait_status;
  failure.item = record.item;
  failure.type = text_of(record.type);
  failure.message = text_of(record.message);
}

std::optional<Failure> SharedMemoryChannel::noted(std::size_t slot) const {
  const FailureRecord& record = failure_records_of(slot)[failure_records()];
  if (record.sequence.load(std::memory_order_acquire) != sequence(slot) + 1) return std::nullopt;
  Failure failure;
  failure.position = record.position;
  read_record(slot, failure_records(), failure);
  return failure;
}

std::size_t SharedMemoryChannel::replaced(std::size_t slot) const {
  return at(slot).replaced.load(std::memory_order_acquire);
}

bool SharedMemoryChannel::is_left_out(std::size_t slot, std::size_t position) const {
  return item(slot, position) == kLeftOut || is_skipped(slot, position);
}

bool SharedMemoryChannel::is_skipped(std::size_t slot, std::size_t position) const {
  const auto chunk = position / at(slot).items_per_chunk;
  return state_of(chunks_of(slot)[chunk].load(std::memory_order_acquire)) == ChunkState::Skipped;
}

std::uint32_t SharedMemoryChannel::done_count() const {
  return table_.events->done.load(std::memory_order_acquire);
}

void SharedMemoryChannel::wait_done(std::uint32_t seen, std::uint64_t sequence,
                                    std::chrono::nanoseconds limit) const {
  // Whoever finishes the task later sees this, or counts `done` up before the futex looks at it.
  table_.events->awaited.store(sequence + 1, std::memory_order_seq_cst);
  if (table_.events->done.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(table_.events->done, seen,
                       std::min<std::chrono::nanoseconds>(limit, kSlice));
  }
  table_.events->awaited.store(PoolEventWords::kNobodyWaits, std::memory_order_relaxed);
}

bool SharedMemoryChannel::has_sleepers() const {
  return table_.events->sleepers.load(std::memory_order_seq_cst) != 0;
}

bool SharedMemoryChannel::is_stopping() const {
  return table_.events->stop.load(std::memory_order_acquire) != 0;
}

std::uint32_t SharedMemoryChannel::work_count() const {
  return table_.events->work.load(std::memory_order_acquire);
}

void SharedMemoryChannel::wait_work(std::size_t worker, std::uint32_t seen) const {
  WorkerRecord& record = table_.workers[worker];
  // In this order, so that a death in between leaves the count too large and never too small.
  table_.events->sleepers.fetch_add(1, std::memory_order_seq_cst);
  record.sleeps.store(1, std::memory_order_relaxed);
  if (table_.events->work.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(table_.events->work, seen, kSlice);
  }
  record.sleeps.store(0, std::memory_order_relaxed);
  table_.events->sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void SharedMemoryChannel::wake_workers() {
  table_.events->work.fetch_add(1, std::memory_order_seq_cst);
  if (has_sleepers()) native::futex_wake_all(table_.events->work);
}

void SharedMemoryChannel::wake_owner() {
  table_.events->done.fetch_add(1, std::memory_order_release);
  native::futex_wake_all(table_.events->done);
}

}  // namespace lockstep::workers
