// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "comm/collective/fingerprint.h"

namespace lockstep {

/// What the ranks have said that they are about to do, by the number of the collective. A rank may
/// be ahead of this one. With the fingerprint may come the values of a small tensor.
///
/// Thread-safety: one thread at a time. Holds no torch.
class TcpAnnouncements {
 public:
  struct FromRank {
    bool has_come = false;
    Fingerprint fingerprint;
    std::vector<std::byte> frame;
    std::span<const std::byte> values;  ///< in `frame`; empty: none came, or they are this rank's
  };

  TcpAnnouncements(int rank, int world_size) : rank_(rank), world_size_(world_size) {}

  /// This rank's own; returns the number that the collective has on all ranks.
  std::uint64_t add_own(const Fingerprint& fingerprint);
  /// `frame`: the fingerprint of another rank, and values behind it. False where it is too short.
  [[nodiscard]] bool add(std::uint64_t number, int rank, std::vector<std::byte> frame);
  [[nodiscard]] bool is_complete(std::uint64_t number) const;
  [[nodiscard]] bool has_come(std::uint64_t number, int rank) const;
  /// Whether this rank and `rank` have announced the same.
  [[nodiscard]] bool do_agree(std::uint64_t number, int rank) const;
  /// What all ranks have said; the collective has been announced by this one.
  [[nodiscard]] std::span<const FromRank> of(std::uint64_t number) const;
  /// Nobody asks for it any more.
  void forget(std::uint64_t number) { entries_.erase(number); }

 private:
  struct Entry {
    std::vector<FromRank> ranks;
    int count = 0;
  };
  Entry& entry(std::uint64_t number);
  FromRank& note(std::uint64_t number, int rank, const Fingerprint& fingerprint);

  int rank_;
  int world_size_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Entry> entries_;
};

}  // namespace lockstep
