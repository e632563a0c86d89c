// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::workers {

/// What has become of a chunk. None: there is no such chunk in the slot's task.
enum class ChunkState : std::uint32_t { None, Open, Claimed, Done, Failed, Skipped };

/// In place of an item that shall be passed over.
constexpr std::int64_t kLeftOut = -1;

/// In place of an item that has ended two workers, and that another one shall replace.
[[nodiscard]] constexpr std::int64_t to_be_replaced(std::int64_t item) {
  return kLeftOut - 1 - item;
}
/// The item that stands there, or stood there to be replaced; `kLeftOut` where it was left out.
[[nodiscard]] constexpr std::int64_t item_of(std::int64_t word) {
  return word >= kLeftOut ? word : kLeftOut - 1 - word;
}

// A chunk's word: its state, how many workers it has ended, and who has claimed it.
constexpr std::uint32_t kAttemptShift = 8;
constexpr std::uint32_t kWorkerShift = 16;

[[nodiscard]] constexpr std::uint32_t chunk_word(ChunkState state, std::uint32_t attempts = 0) {
  return static_cast<std::uint32_t>(state) | attempts << kAttemptShift;
}

[[nodiscard]] constexpr ChunkState state_of(std::uint32_t word) {
  return static_cast<ChunkState>(word & 0xffU);
}

[[nodiscard]] constexpr std::uint32_t attempts_of(std::uint32_t word) {
  return word >> kAttemptShift & 0xffU;
}

[[nodiscard]] constexpr std::size_t worker_of(std::uint32_t word) {
  return word >> kWorkerShift;
}

[[nodiscard]] constexpr std::uint32_t claimed_by(std::uint32_t open, std::size_t worker) {
  return chunk_word(ChunkState::Claimed, attempts_of(open)) | static_cast<std::uint32_t>(worker)
                                                                  << kWorkerShift;
}

/// Whether nobody will work at it any more.
[[nodiscard]] constexpr bool is_final(std::uint32_t word) {
  const auto state = state_of(word);
  return state != ChunkState::Open && state != ChunkState::Claimed;
}

}  // namespace lockstep::workers
