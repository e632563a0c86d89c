// SPDX-License-Identifier: BSD-3-Clause
// Step 4 of a sample's path: the words that the rank and its workers pass each other. Before it:
// batch_scheduler gave a batch to a slot. After it: batch_worker fetches the samples.
#include "workers/task_channel.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>

namespace lockstep::workers {
namespace {

// Of a task's items, what is worth fetching ahead: those behind come while these are written.
constexpr std::size_t kFirstItems = 16 * ChannelLayout::kLine;

std::span<std::byte> control_of(const native::SharedMemoryRegion& region) {
  return {region.control(), region.control_bytes()};
}

}  // namespace

TaskChannel::TaskChannel(const ChannelShape& shape)
    : region_(ChannelLayout::bytes_for(shape)),
      layout_(ChannelLayout::create(control_of(region_), shape)) {}

TaskChannel::TaskChannel(native::FileDescriptor descriptor)
    : region_(std::move(descriptor)), layout_(ChannelLayout::open(control_of(region_))) {}

SlotState TaskChannel::state(std::size_t slot) const {
  return slot_state(layout_.slot(slot).state.load(std::memory_order_acquire));
}

std::uint64_t TaskChannel::sequence(std::size_t slot) const {
  return layout_.slot(slot).sequence.load(std::memory_order_relaxed);
}

std::uint64_t TaskChannel::word(std::size_t slot, std::size_t number) const {
  return layout_.slot(slot).words[number];
}

std::optional<std::size_t> TaskChannel::worker(std::size_t slot) const {
  const auto only = layout_.slot(slot).worker.load(std::memory_order_relaxed);
  if (only == Task::kAnybody) return std::nullopt;
  return static_cast<std::size_t>(only);
}

void TaskChannel::set_worker(std::size_t slot, std::size_t worker) {
  layout_.slot(slot).worker.store(static_cast<std::int32_t>(worker), std::memory_order_relaxed);
}

std::uint64_t TaskChannel::result(std::size_t slot) const {
  return layout_.slot(slot).result.load(std::memory_order_relaxed);
}

void TaskChannel::set_result(std::size_t slot, std::uint64_t value) {
  layout_.slot(slot).result.store(value, std::memory_order_relaxed);
}

void TaskChannel::prefetch_states() const noexcept {
  for (std::size_t slot = 0; slot < slots(); ++slot) __builtin_prefetch(&layout_.slot(slot).state);
}

void TaskChannel::prefetch_slot(std::size_t slot, std::size_t items) const noexcept {
  const auto fetch = [](const void* words, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(words);
    for (std::size_t at = 0; at < bytes; at += ChannelLayout::kLine) {
      __builtin_prefetch(first + at, 1);
    }
  };
  fetch(&layout_.slot(slot), sizeof(SlotWords));
  fetch(layout_.chunks(slot), ChannelLayout::kLine);
  fetch(layout_.ends(slot), ChannelLayout::kLine);
  fetch(layout_.items(slot), std::min<std::size_t>(items * sizeof(std::int64_t), kFirstItems));
  fetch(layout_.blocks(slot), ChannelLayout::kLine);
}

void TaskChannel::assign(std::size_t slot, const Task& task) {
  auto& words = layout_.slot(slot);
  const TaskChunks chunks{(task.items.size() + task.items_per_chunk - 1) / task.items_per_chunk,
                          task.has_collate_task};
  items_.assign(slot, task.items);
  words.items_per_chunk.store(static_cast<std::uint32_t>(task.items_per_chunk),
                              std::memory_order_relaxed);
  words.chunks.store(chunks.word(), std::memory_order_relaxed);
  words.words = task.words;
  words.result.store(0, std::memory_order_relaxed);
  words.worker.store(task.worker, std::memory_order_relaxed);
  words.sequence.store(task.sequence, std::memory_order_relaxed);
  words.withdrawn.store(0, std::memory_order_relaxed);
  words.items_done.store(0, std::memory_order_relaxed);
  blocks_.forget_result(slot);  // delivered with the batch; the items' have been freed
  failures_.clear(slot);
  claims_.open(slot);
}

bool TaskChannel::withdraw(std::size_t slot) {
  layout_.slot(slot).withdrawn.store(1, std::memory_order_relaxed);
  if (!claims_.withdraw(slot)) return false;
  release(slot);
  return true;
}

bool TaskChannel::take_back(std::size_t slot) {
  if (!claims_.take_back(slot)) return false;
  release(slot);
  return true;
}

void TaskChannel::hold(std::size_t slot) {
  auto& word = layout_.slot(slot).state;
  word.store(with_state(word.load(std::memory_order_relaxed), SlotState::Held),
             std::memory_order_relaxed);
}

void TaskChannel::release(std::size_t slot) noexcept {
  auto& word = layout_.slot(slot).state;
  word.store(with_state(word.load(std::memory_order_relaxed), SlotState::Free),
             std::memory_order_release);
}

std::uint64_t TaskChannel::progress(std::size_t slot) const {
  return claims_.finished(slot) +
         std::uint64_t{layout_.slot(slot).items_done.load(std::memory_order_relaxed)};
}

std::optional<std::size_t> TaskChannel::claimer(std::size_t slot) const {
  return claims_.claimer(slot);
}

std::optional<Claim> TaskChannel::claim(std::size_t worker) {
  const WorkerRecord& record = table_.workers[worker];
  while (!events().is_stopping() && record.retire.load(std::memory_order_acquire) == 0) {
    const auto seen = events().work_count();
    if (auto claim = claims_.try_claim(worker)) return claim;
    wait_for_work(worker, seen);
  }
  return std::nullopt;
}

bool TaskChannel::is_futile(const Claim& claim) const {
  // A collate task needs all items, a chunk those before it.
  const auto needed = claim.is_collate ? claim.items.size() : claim.first;
  return layout_.slot(claim.slot).withdrawn.load(std::memory_order_relaxed) != 0 ||
         failures_.has_failed_before(claim.slot, needed);
}

bool TaskChannel::give_back_for_older(const Claim& claim, std::size_t worker) {
  if (!claims_.has_older_open(claim, worker)) return false;
  claims_.give_back(claim);
  return true;
}

void TaskChannel::begin_item(std::size_t worker, std::size_t slot, std::size_t position) {
  WorkerRecord& record = table_.workers[worker];
  record.heartbeats.store(record.heartbeats.load(std::memory_order_relaxed) + 1,
                          std::memory_order_relaxed);
  record.current_item.store(CurrentItem{slot, position}.word(), std::memory_order_release);
}

void TaskChannel::end_item(std::size_t worker) {
  WorkerRecord& record = table_.workers[worker];
  const auto current = CurrentItem::of(record.current_item.load(std::memory_order_relaxed));
  if (!current) return;
  record.current_item.store(CurrentItem::kNothing, std::memory_order_release);
  auto& words = layout_.slot(current->slot);
  // Where the chunks themselves do not show that there is progress.
  if (words.items_per_chunk > 1 || TaskChunks::of(words).has_collate_task) {
    words.items_done.fetch_add(1, std::memory_order_relaxed);
  }
}

void TaskChannel::finish(const Claim& claim) {
  claims_.conclude(claim.slot, claim.chunk, ChunkState::Done);
}

void TaskChannel::fail(const Claim& claim, const Failure& failure) {
  failures_.write(claim.slot, failure);
  claims_.conclude(claim.slot, claim.chunk, ChunkState::Failed);
}

void TaskChannel::wait_for_work(std::size_t worker, std::uint32_t seen) const {
  events().wait_for_work(table_.workers[worker], seen);
}

void TaskChannel::repair(std::size_t worker, Poison poison, std::uint32_t attempts) {
  repair_.repair(worker, poison, attempts);
}

}  // namespace lockstep::workers
