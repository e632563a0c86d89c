// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/counters.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "native/posix/futex.h"
#include "native/posix/usable_cores.h"

namespace lockstep {
namespace {

// An entry may be overwritten when all ranks have read it. A rank that arrives at round r has
// completed round r - kMaxAhead. All ranks had arrived at that round then, so each had completed,
// and read, round r - 2 * kMaxAhead.
constexpr std::size_t kRing = 2 * SharedMemoryCounters::kMaxAhead;
constexpr std::uint64_t kDigests = 7;
constexpr int kSpins =
    2000;  // some 20 us: longer than a hand-over between running ranks, shorter than a sleep hurts

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Counters wrap around; ranks are never more than a few rounds apart.
bool has_passed(std::uint32_t counter, std::uint64_t round) {
  return static_cast<std::int32_t>(counter - static_cast<std::uint32_t>(round + 1)) >= 0;
}

}  // namespace

// What the owner writes in every round lies on another cache line than what sleepers write.
struct alignas(64) SharedMemoryCounters::RankBlock {
  std::atomic<std::uint32_t> arrived{0};   // written by the owner
  std::atomic<std::uint32_t> finished{0};  // written by the owner
  // The digests of the latest rounds, which come along with the counters in one transfer.
  std::array<std::atomic<std::uint64_t>, kDigests> digests{};
  alignas(64) std::atomic<std::uint32_t> sleepers{0};  // ranks that sleep on one of the two
  alignas(64) std::atomic<RankState> state{RankState::Joining};
  std::int32_t pid = 0;
  std::uint64_t pid_namespace = 0;
  std::array<char, 1024> reason{};
  std::atomic<std::int32_t> awaited{0};  // one more than the rank; 0: none
  alignas(64) std::array<Fingerprint, kRing> fingerprints{};
};

std::size_t SharedMemoryCounters::bytes_needed(int world_size) {
  return sizeof(RankBlock) * static_cast<std::size_t>(world_size);
}

SharedMemoryCounters::SharedMemoryCounters(std::byte* control, int rank, int world_size)
    : control_(control),
      rank_(rank),
      world_size_(world_size),
      // Spinning where another rank needs the core only keeps that rank from arriving.
      spins_(native::usable_cores() >= world_size ? kSpins : 0) {}

SharedMemoryCounters::RankBlock& SharedMemoryCounters::block(int rank) const {
  // Zeroed memory is a valid start for all members, and every rank may look before the owner wrote.
  return *std::launder(
      reinterpret_cast<RankBlock*>(control_ + sizeof(RankBlock) * static_cast<std::size_t>(rank)));
}

void SharedMemoryCounters::admit(int rank, std::int32_t pid, std::uint64_t pid_namespace) {
  RankBlock& entry = block(rank);
  entry.pid = pid;
  entry.pid_namespace = pid_namespace;
  entry.state.store(RankState::Active, std::memory_order_release);
}

void SharedMemoryCounters::watch_peers() {
  for (int rank = 0; rank < world_size_; ++rank) {
    const RankBlock& other = block(rank);
    peers_.emplace_back(other.pid, other.pid_namespace);
  }
}

void SharedMemoryCounters::publish(std::atomic<std::uint32_t>& counter, std::uint32_t value) const {
  // Sequentially consistent with the sleeper's increment and second look: one of the two sees the
  // other.
  counter.store(value, std::memory_order_seq_cst);
  if (block(rank_).sleepers.load(std::memory_order_seq_cst) != 0) native::futex_wake_all(counter);
}

std::uint64_t SharedMemoryCounters::arrive(const Fingerprint& fingerprint, std::uint64_t digest) {
  RankBlock& own = block(rank_);
  own.fingerprints[arrived_ % kRing] = fingerprint;
  // A reader sees by the counter whether this entry is still the one of its round.
  own.digests[arrived_ % kDigests].store(digest, std::memory_order_release);
  publish(own.arrived, static_cast<std::uint32_t>(arrived_ + 1));
  return arrived_++;
}

bool SharedMemoryCounters::has_arrived(int rank, std::uint64_t round) const {
  return has_passed(block(rank).arrived.load(std::memory_order_acquire), round);
}

bool SharedMemoryCounters::have_all_arrived(std::uint64_t round) const {
  for (int rank = 0; rank < world_size_; ++rank) {
    if (!has_arrived(rank, round)) return false;
  }
  return true;
}

bool SharedMemoryCounters::have_same_digest(std::uint64_t round, std::uint64_t digest) const {
  for (int rank = 0; rank < world_size_; ++rank) {
    const RankBlock& other = block(rank);
    if (other.digests[round % kDigests].load(std::memory_order_acquire) != digest) return false;
    // The entry is written again before the counter says so.
    const auto ahead =
        other.arrived.load(std::memory_order_acquire) - static_cast<std::uint32_t>(round);
    if (ahead >= kDigests) return false;
  }
  return true;
}

Fingerprint SharedMemoryCounters::fingerprint(int rank, std::uint64_t round) const {
  return block(rank).fingerprints[round % kRing];
}

void SharedMemoryCounters::finish(std::uint64_t round) {
  publish(block(rank_).finished, static_cast<std::uint32_t>(round + 1));
}

bool SharedMemoryCounters::has_finished(int rank, std::uint64_t round) const {
  return has_passed(block(rank).finished.load(std::memory_order_acquire), round);
}

bool SharedMemoryCounters::have_all_finished(std::uint64_t round) const {
  for (int rank = 0; rank < world_size_; ++rank) {
    if (!has_finished(rank, round)) return false;
  }
  return true;
}

int SharedMemoryCounters::first_late(std::atomic<std::uint32_t> RankBlock::*counter,
                                     std::uint64_t round, int from) const {
  int rank = from;
  while (rank < world_size_ &&
         has_passed((block(rank).*counter).load(std::memory_order_acquire), round)) {
    ++rank;
  }
  return rank;
}

bool SharedMemoryCounters::spin_on(std::atomic<std::uint32_t> RankBlock::*counter,
                                   std::uint64_t round) const {
  int late = 0;
  for (int i = 0; i < spins_; ++i) {
    late = first_late(counter, round, late);
    if (late == world_size_) return true;
    pause();
  }
  return false;
}

void SharedMemoryCounters::sleep_on(std::atomic<std::uint32_t> RankBlock::*counter,
                                    std::uint64_t round, std::chrono::nanoseconds limit) const {
  const int late = first_late(counter, round, 0);
  if (late == world_size_) return;
  RankBlock& other = block(late);
  other.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t seen = (other.*counter).load(std::memory_order_seq_cst);
  if (!has_passed(seen, round) && can_still_come(late)) {
    native::futex_wait(other.*counter, seen, limit);
  }
  other.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

bool SharedMemoryCounters::spin_until_arrived(std::uint64_t round) const {
  return spin_on(&RankBlock::arrived, round);
}

bool SharedMemoryCounters::spin_until_finished(std::uint64_t round) const {
  return spin_on(&RankBlock::finished, round);
}

void SharedMemoryCounters::sleep_until_arrived(std::uint64_t round,
                                               std::chrono::nanoseconds limit) const {
  sleep_on(&RankBlock::arrived, round, limit);
}

void SharedMemoryCounters::sleep_until_finished(std::uint64_t round,
                                                std::chrono::nanoseconds limit) const {
  sleep_on(&RankBlock::finished, round, limit);
}

void SharedMemoryCounters::leave(RankState state, const std::string& reason) noexcept {
  RankBlock& own = block(rank_);
  const std::size_t length = std::min(reason.size(), own.reason.size() - 1);
  std::memcpy(own.reason.data(), reason.data(), length);
  own.reason[length] = '\0';
  own.state.store(state, std::memory_order_seq_cst);
  native::futex_wake_all(own.arrived);
  native::futex_wake_all(own.finished);
}

SharedMemoryCounters::RankState SharedMemoryCounters::state(int rank) const {
  return block(rank).state.load(std::memory_order_acquire);
}

std::string SharedMemoryCounters::reason_of(int rank) const {
  const auto& text = block(rank).reason;
  return {text.data(), ::strnlen(text.data(), text.size())};
}

void SharedMemoryCounters::note_awaited(std::optional<int> rank) noexcept {
  block(rank_).awaited.store(rank ? *rank + 1 : 0, std::memory_order_relaxed);
}

std::optional<int> SharedMemoryCounters::awaited_by(int rank) const {
  const int found = block(rank).awaited.load(std::memory_order_relaxed);
  return found == 0 ? std::nullopt : std::optional(found - 1);
}

bool SharedMemoryCounters::can_still_come(int rank) const {
  if (state(rank) != RankState::Active) return false;
  return peers_.empty() || peers_[static_cast<std::size_t>(rank)].is_alive();
}

std::string SharedMemoryCounters::describe(int rank) const {
  std::string text = "rank " + std::to_string(name_of(rank));
  if (!peers_.empty()) {
    const native::PeerProcess& peer = peers_[static_cast<std::size_t>(rank)];
    text += " (pid " + std::to_string(peer.pid()) + (host_.empty() ? "" : " on " + host_) + ", " +
            peer.state() + ")";
  }
  return text;
}

}  // namespace lockstep
