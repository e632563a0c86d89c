// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/collective/fingerprint.h"
#include "native/posix/peer_process.h"

namespace lockstep {

/// How ranks of one host stay in step: two counters a rank in shared memory, and futexes to sleep
/// on.
///
/// A round is one exchange. Every rank *arrives* (its data may be read), then, when all have
/// arrived, does its part and *finishes* (its part may be read, its input may be overwritten). Both
/// counters only grow, and each has one writer, so nothing can be lost and no lock can be left
/// behind by a rank that dies. A rank may arrive at up to `kMaxAhead` rounds before it has
/// completed the first of them.
///
/// Holds no torch and no names; ranks can be processes or threads.
/// Thread-safety: one thread a rank.
class SharedMemoryCounters {
 public:
  static constexpr std::uint64_t kMaxAhead = 32;
  enum class RankState : std::uint32_t { Joining, Active, Closed, Aborted };

  [[nodiscard]] static std::size_t bytes_needed(int world_size);

  /// `control` is zeroed shared memory of `bytes_needed` bytes, aligned to 64; it must outlive this
  /// object.
  SharedMemoryCounters(std::byte* control, int rank, int world_size);

  /// Enters a rank; done by rank 0 for all ranks before the others get to see the memory.
  void admit(int rank, std::int32_t pid, std::uint64_t pid_namespace);
  /// Watches the processes of the ranks, which have all been admitted.
  void watch_peers();

  /// Whether this rank may announce another round already.
  [[nodiscard]] bool can_arrive() const noexcept { return arrived_ - completed_ < kMaxAhead; }
  /// Announces the next round of this rank and returns its number. `digest`: of the fingerprint.
  std::uint64_t arrive(const Fingerprint& fingerprint, std::uint64_t digest);
  [[nodiscard]] bool has_arrived(int rank, std::uint64_t round) const;
  [[nodiscard]] bool have_all_arrived(std::uint64_t round) const;
  /// Whether all ranks arrived at `round` with this digest. False also where a rank is several
  /// rounds ahead, so that its digest is overwritten; compare the fingerprints then.
  [[nodiscard]] bool have_same_digest(std::uint64_t round, std::uint64_t digest) const;
  [[nodiscard]] Fingerprint fingerprint(int rank, std::uint64_t round) const;

  /// Announces that this rank has done its part of `round`, and of all before it.
  void finish(std::uint64_t round);
  [[nodiscard]] bool has_finished(int rank, std::uint64_t round) const;
  [[nodiscard]] bool have_all_finished(std::uint64_t round) const;

  /// Everything that this rank had to do or wait for in its oldest open round is done.
  void complete() noexcept { ++completed_; }

  /// Look for a few microseconds, where cores are free, whether all ranks are there.
  [[nodiscard]] bool spin_until_arrived(std::uint64_t round) const;
  [[nodiscard]] bool spin_until_finished(std::uint64_t round) const;
  /// Sleep until a rank that is behind moves, for at most `limit`.
  void sleep_until_arrived(std::uint64_t round, std::chrono::nanoseconds limit) const;
  void sleep_until_finished(std::uint64_t round, std::chrono::nanoseconds limit) const;

  /// Says that this rank has closed the group (`Closed`) or aborted it (`Aborted`, with the
  /// reason). Wakes all who wait for this rank.
  void leave(RankState state, const std::string& reason) noexcept;
  [[nodiscard]] RankState state(int rank) const;
  [[nodiscard]] std::string reason_of(int rank) const;

  /// A rank of another host for which this one waits; nothing: none. Others of this host read it,
  /// so that they can say why this one is late.
  void note_awaited(std::optional<int> rank) noexcept;
  [[nodiscard]] std::optional<int> awaited_by(int rank) const;

  /// Whether that rank can still arrive somewhere: not closed, not gone, its process alive.
  [[nodiscard]] bool can_still_come(int rank) const;
  /// The numbers that error messages give the ranks, where this group is a part of another; without
  /// them, the ranks' own numbers. `host`: where they are; empty: there is only one host.
  void name_ranks(std::vector<int> names, std::string host) {
    names_ = std::move(names);
    host_ = std::move(host);
  }
  [[nodiscard]] int name_of(int rank) const {
    return names_.empty() ? rank : names_[static_cast<std::size_t>(rank)];
  }
  /// "rank 1 (pid 4711, stopped)", "rank 1 (pid 4711 on node2, stopped)".
  [[nodiscard]] std::string describe(int rank) const;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int world_size() const noexcept { return world_size_; }

 private:
  struct RankBlock;

  [[nodiscard]] RankBlock& block(int rank) const;
  [[nodiscard]] int first_late(std::atomic<std::uint32_t> RankBlock::*counter, std::uint64_t round,
                               int from) const;
  [[nodiscard]] bool spin_on(std::atomic<std::uint32_t> RankBlock::*counter,
                             std::uint64_t round) const;
  void sleep_on(std::atomic<std::uint32_t> RankBlock::*counter, std::uint64_t round,
                std::chrono::nanoseconds limit) const;
  void publish(std::atomic<std::uint32_t>& counter, std::uint32_t value) const;

  std::byte* control_;
  int rank_;
  int world_size_;
  int spins_;
  std::uint64_t arrived_ = 0;
  std::uint64_t completed_ = 0;
  std::vector<native::PeerProcess> peers_;
  std::vector<int> names_;
  std::string host_;
};

}  // namespace lockstep
