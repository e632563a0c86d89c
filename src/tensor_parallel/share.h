// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstdint>

namespace lockstep::nn {

/// What a rank has of a size that ranks share.
struct Share {
  std::int64_t first = 0;
  std::int64_t size = 0;
};

/// The ranks have neighbouring shares in their order. Where `size` is no multiple of `ranks`, the
/// first ones have one more.
[[nodiscard]] inline Share share_of(std::int64_t size, int rank, int ranks) {
  const auto least = size / ranks;
  const auto larger = size % ranks;  // shares
  return {rank * least + std::min<std::int64_t>(rank, larger), least + (rank < larger ? 1 : 0)};
}

}  // namespace lockstep::nn
