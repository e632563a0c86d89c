// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>

namespace lockstep::workers {

/// Where an overflow block lies. Lies itself in shared memory.
struct BlockWords {
  static constexpr std::uint64_t kBeingFreed = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kBeingWritten = std::uint64_t{1} << 62;

  std::atomic<std::uint64_t> offset;
  std::atomic<std::uint64_t> bytes;  // 0: there is none; plus one of the above
};

}  // namespace lockstep::workers
