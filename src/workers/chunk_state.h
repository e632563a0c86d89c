// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>

/// A chunk's word: its state, how many workers it has ended, and who has claimed it.
namespace lockstep::workers {

/// What has become of a chunk. None: there is no such chunk in the slot's task.
enum class ChunkState : std::uint32_t { None, Open, Claimed, Done, Failed, Skipped };

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
