// SPDX-License-Identifier: BSD-3-Clause
#include "inference/request_channel.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "native/posix/futex.h"
#include "workers/fixed_text.h"

namespace lockstep::inference::detail {
namespace {

constexpr std::size_t kLine = 64;
// A process that has worked for so long begins anew with its pauses.
constexpr std::uint64_t kLongEnough = 60'000'000'000;

/// Deals out memory, or, without memory, only counts.
class Layout {
 public:
  explicit Layout(std::byte* memory) : memory_(memory) {}

  template <typename T>
  T* take(std::size_t count) {
    static_assert(alignof(T) <= kLine);
    const auto offset = bytes_;
    bytes_ += (sizeof(T) * count + kLine - 1) / kLine * kLine;
    if (memory_ == nullptr) return nullptr;
    auto* const first = reinterpret_cast<T*>(memory_ + offset);
    std::uninitialized_value_construct_n(first, count);  // it is zero; this begins the lifetimes
    return first;
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

struct Parts {
  Parts(std::byte* memory, const ChannelShape& shape) : layout(memory) {
    header = layout.take<ChannelHeader>(1);
    records = layout.take<workers::WorkerRecord>(shape.member_of_worker.size());
    restarts = layout.take<RestartWords>(shape.member_of_worker.size());
    members = layout.take<MemberWords>(shape.members);
    words = layout.take<std::atomic<std::uint64_t>>(shape.members * shape.slots);
    slots = layout.take<SlotWords>(shape.slots);
    parts = layout.take<PartWords>(shape.members * shape.slots);
    rooms = layout.take<std::atomic<std::uint64_t>>((shape.members + 1) * shape.slots);
  }

  Layout layout;
  ChannelHeader* header;
  workers::WorkerRecord* records;
  RestartWords* restarts;
  MemberWords* members;
  std::atomic<std::uint64_t>* words;
  SlotWords* slots;
  PartWords* parts;
  std::atomic<std::uint64_t>* rooms;
};

}  // namespace

RequestChannel::RequestChannel(ChannelShape shape)
    : shape_(std::move(shape)), region_(Parts(nullptr, shape_).layout.bytes()) {
  const Parts parts(region_.control(), shape_);
  header_ = parts.header;
  records_ = parts.records;
  restarts_ = parts.restarts;
  members_ = parts.members;
  words_ = parts.words;
  slots_ = parts.slots;
  parts_ = parts.parts;
  rooms_ = parts.rooms;
}

workers::WorkerTable RequestChannel::table() const noexcept {
  return {workers::PoolEvents(header_->events), workers()};
}

std::span<workers::WorkerRecord> RequestChannel::workers() const noexcept {
  return {records_, shape_.member_of_worker.size()};
}

PartWord RequestChannel::word(std::size_t slot, std::size_t member) const noexcept {
  // Not only to acquire what belongs to it: `abandon` and `finish` each write one word and read the
  // other's, and one of them must see both.
  return PartWord::of(word_at(slot, member).load(std::memory_order_seq_cst));
}

void RequestChannel::open(std::size_t slot, std::uint64_t sequence) {
  slots_[slot].is_abandoned.store(0, std::memory_order_relaxed);
  slots_[slot].ended.store(0, std::memory_order_relaxed);
  for (std::size_t member = 0; member < shape_.members; ++member) {
    part(slot, member).ends.store(0, std::memory_order_relaxed);
  }
  const auto open = PartWord{sequence, 0, PartState::Open}.word();
  for (std::size_t member = 0; member < shape_.members; ++member) {
    word_at(slot, member).store(open, std::memory_order_release);
  }
  table().events.wake_workers();
}

void RequestChannel::abandon(std::size_t slot) {
  // In this order: who opens a part again looks at it afterwards.
  slots_[slot].is_abandoned.store(1, std::memory_order_seq_cst);
  for (std::size_t member = 0; member < shape_.members; ++member) {
    auto& at = word_at(slot, member);
    auto word = at.load(std::memory_order_seq_cst);
    if (PartWord::of(word).state != PartState::Open) continue;
    at.compare_exchange_strong(word,
                               PartWord{PartWord::of(word).sequence, 0, PartState::Skipped}.word());
  }
}

bool RequestChannel::is_over(std::size_t slot) const {
  for (std::size_t member = 0; member < shape_.members; ++member) {
    const auto state = word(slot, member).state;
    if (state == PartState::Running || state == PartState::Open) return false;
  }
  return true;
}

bool RequestChannel::has_ready_copy(std::size_t member) const {
  for (std::size_t worker = 0; worker < shape_.member_of_worker.size(); ++worker) {
    if (shape_.member_of_worker[worker] == member &&
        records_[worker].state.load(std::memory_order_seq_cst) == workers::WorkerState::Running) {
      return true;
    }
  }
  return false;
}

std::string RequestChannel::last_words(std::size_t worker) const {
  std::string text;
  for (const auto& letter : restarts_[worker].text) {
    const char read = letter.load(std::memory_order_relaxed);
    if (read == '\0') break;
    text += read;
  }
  return text;
}

void RequestChannel::give_up(std::size_t slot, std::size_t member, std::string_view why) {
  auto& at = word_at(slot, member);
  auto word = at.load(std::memory_order_acquire);
  const auto part_word = PartWord::of(word);
  if (part_word.state != PartState::Open) return;
  // Nobody else writes to a part whose member has no process.
  part(slot, member).failure = PartFailure::GivenUp;
  workers::copy_text(part(slot, member).text, why);
  at.compare_exchange_strong(word, PartWord{part_word.sequence, 0, PartState::Failed}.word());
}

void RequestChannel::wait_for_change(std::size_t slot, std::uint32_t seen,
                                     std::chrono::nanoseconds limit) const {
  SlotWords& words = slots_[slot];
  words.waiters.fetch_add(1, std::memory_order_seq_cst);
  if (words.changes.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(words.changes, seen, std::min<std::chrono::nanoseconds>(limit, kSlice));
  }
  words.waiters.fetch_sub(1, std::memory_order_relaxed);
}

void RequestChannel::wait_for_completion(std::uint32_t seen, std::chrono::nanoseconds limit) const {
  header_->completion_waiters.fetch_add(1, std::memory_order_seq_cst);
  if (header_->completions.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(header_->completions, seen,
                       std::min<std::chrono::nanoseconds>(limit, kSlice));
  }
  header_->completion_waiters.fetch_sub(1, std::memory_order_relaxed);
}

std::uint32_t RequestChannel::completions() const noexcept {
  return header_->completions.load(std::memory_order_acquire);
}

void RequestChannel::announce(std::size_t slot) const {
  SlotWords& words = slots_[slot];
  words.changes.fetch_add(1, std::memory_order_seq_cst);
  if (words.waiters.load(std::memory_order_seq_cst) != 0) native::futex_wake_all(words.changes);
  header_->completions.fetch_add(1, std::memory_order_seq_cst);
  if (header_->completion_waiters.load(std::memory_order_seq_cst) != 0) {
    native::futex_wake_all(header_->completions);
  }
}

bool RequestChannel::find_oldest(std::size_t member, std::size_t& slot, std::uint64_t& sequence) {
  while (true) {
    bool is_found = false;
    const auto words = words_of(member);
    for (std::size_t at = 0; at < words.size(); ++at) {
      const auto word = PartWord::of(words[at].load(std::memory_order_acquire));
      if (word.state != PartState::Open || (is_found && word.sequence >= sequence)) continue;
      is_found = true;
      slot = at;
      sequence = word.sequence;
    }
    if (!is_found) return false;
    if (now_ns() < slots_[slot].deadline.load(std::memory_order_relaxed)) return true;
    // Too late: whoever waits for it has given up or is about to.
    auto expected = PartWord{sequence, 0, PartState::Open}.word();
    if (word_at(slot, member)
            .compare_exchange_strong(expected, PartWord{sequence, 0, PartState::Skipped}.word())) {
      announce(slot);
    }
  }
}

bool RequestChannel::claim(std::size_t worker, std::size_t slot, std::uint64_t sequence) {
  auto expected = PartWord{sequence, 0, PartState::Open}.word();
  return word_at(slot, shape_.member_of_worker[worker])
      .compare_exchange_strong(expected, PartWord{sequence, worker, PartState::Running}.word());
}

void RequestChannel::give_back(std::size_t worker, std::size_t slot, std::uint64_t sequence) {
  auto& at = word_at(slot, shape_.member_of_worker[worker]);
  auto open = PartWord{sequence, 0, PartState::Open}.word();
  at.store(open, std::memory_order_seq_cst);
  if (slots_[slot].is_abandoned.load(std::memory_order_seq_cst) != 0) {
    at.compare_exchange_strong(open, PartWord{sequence, 0, PartState::Skipped}.word());
  }
}

void RequestChannel::finish(std::size_t worker, std::size_t slot, std::uint64_t sequence,
                            PartState state) {
  word_at(slot, shape_.member_of_worker[worker])
      .store(PartWord{sequence, worker, state}.word(), std::memory_order_seq_cst);
  // Of two members that are last at once, one at least sees the other's word. A failure may decide
  // the request before the others are through, and so may the end of a slot that nobody waits for.
  if (state != PartState::Done || waits_for_no_copy(slot) ||
      slots_[slot].is_abandoned.load(std::memory_order_seq_cst) != 0) {
    announce(slot);
  }
}

// Parts that are open count only where somebody is there to take them.
bool RequestChannel::waits_for_no_copy(std::size_t slot) const {
  for (std::size_t member = 0; member < shape_.members; ++member) {
    const auto part = word(slot, member);
    if (part.is_over() || (part.state == PartState::Open && !has_ready_copy(member))) continue;
    return false;
  }
  return true;
}

std::uint32_t RequestChannel::work_count() const noexcept {
  return header_->events.work.load(std::memory_order_acquire);
}

// As `PoolEvents::wait_for_work`, for a time that a batch may wait.
void RequestChannel::wait_for_work(std::size_t worker, std::uint32_t seen,
                                   std::chrono::nanoseconds limit) const {
  auto& events = header_->events;
  events.sleepers.fetch_add(1, std::memory_order_seq_cst);
  records_[worker].sleeps.store(1, std::memory_order_relaxed);
  if (events.work.load(std::memory_order_seq_cst) == seen) {
    native::futex_wait(events.work, seen, std::min<std::chrono::nanoseconds>(limit, kSlice));
  }
  records_[worker].sleeps.store(0, std::memory_order_relaxed);
  events.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void RequestChannel::repair(std::size_t worker) {
  auto& restarts = restarts_[worker];
  const bool has_worked =
      records_[worker].state.load(std::memory_order_acquire) == workers::WorkerState::Running;
  if (has_worked && now_ns() - restarts.ready_since.load(std::memory_order_relaxed) > kLongEnough) {
    restarts.ends_in_a_row.store(0, std::memory_order_relaxed);
  }
  restarts.ends_in_a_row.fetch_add(1, std::memory_order_relaxed);
  for (std::size_t at = 0; at + 1 < restarts.text.size(); ++at) {
    restarts.text[at].store(records_[worker].message[at], std::memory_order_relaxed);
  }
  // Before the others are woken, who may go on without this one.
  records_[worker].state.store(workers::WorkerState::Starting, std::memory_order_seq_cst);
  const auto member = shape_.member_of_worker[worker];
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) repair_part(worker, slot, member);
  // It may have died between its last word and the wake-up.
  for (std::size_t slot = 0; slot < shape_.slots; ++slot) announce(slot);
}

void RequestChannel::repair_part(std::size_t worker, std::size_t slot, std::size_t member) {
  const auto word = this->word(slot, member);
  if (word.state != PartState::Running || word.worker != worker) return;
  auto& record = records_[worker];
  auto& part = this->part(slot, member);
  const auto ends = part.ends.fetch_add(1, std::memory_order_relaxed) + 1;
  part.failure = record.kill_reason.load(std::memory_order_relaxed) == workers::KillReason::None
                     ? PartFailure::Ended
                     : PartFailure::Hung;
  part.wait_status = record.wait_status.load(std::memory_order_relaxed);
  part.pid = record.pid.load(std::memory_order_relaxed);
  if (ends < kMostEnds) {
    give_back(worker, slot, word.sequence);
  } else {
    members_[member].failed.fetch_add(1, std::memory_order_relaxed);
    slots_[slot].ended.store(now_ns(), std::memory_order_relaxed);
    word_at(slot, member)
        .store(PartWord{word.sequence, worker, PartState::Failed}.word(),
               std::memory_order_seq_cst);
  }
}

}  // namespace lockstep::inference::detail
