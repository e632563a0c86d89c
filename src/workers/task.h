// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace lockstep::workers {

/// A slot's way: Free -> Filling (owner) -> Ready (whoever finishes the last chunk) -> Held (owner)
/// -> Free. The owner also takes Ready slots straight back to Free.
enum class SlotState : std::uint32_t { Free, Filling, Ready, Held };

/// A task: items, cut into chunks that are claimed one by one. With a collate task, whoever finds
/// all chunks finished claims the items as a whole once more, to make something of what has become
/// of them.
struct Task {
  static constexpr std::int32_t kAnybody = -1;
  static constexpr std::size_t kWords = 5;

  std::uint64_t sequence = 0;  ///< never used again; workers take the lowest first
  std::span<const std::int64_t> items;
  std::size_t items_per_chunk = 1;
  bool has_collate_task = false;
  std::int32_t worker = kAnybody;             ///< the only one that may claim it
  std::array<std::uint64_t, kWords> words{};  ///< the caller's own
};

/// What a worker has claimed: `items` of slot `slot`, from `first` on.
struct Claim {
  std::size_t slot = 0;
  std::size_t chunk = 0;
  std::size_t first = 0;
  std::span<const std::int64_t> items;
  bool is_collate = false;
};

}  // namespace lockstep::workers
