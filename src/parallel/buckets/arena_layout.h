// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <vector>

namespace lockstep {

/// How an arena's memory is cut into blocks for gradients. It depends on the arguments of `of`
/// alone, so that all ranks have the same.
struct ArenaLayout {
  struct Size {
    std::size_t bytes = 0;   ///< of one gradient
    std::size_t begin = 0;   ///< byte at which the blocks of this size begin
    std::size_t blocks = 0;  ///< one for each parameter of this size
    std::size_t first = 0;   ///< number of the first one
  };
  std::vector<Size> sizes;
  std::vector<std::size_t> size_of;  ///< of each parameter, as a number in `sizes`
  std::size_t spare_begin = 0;
  std::size_t bytes = 0;  ///< in all

  /// `gradients`: the bytes of each parameter's gradient. Spare memory is up to three times the
  /// largest.
  [[nodiscard]] static ArenaLayout of(const std::vector<std::size_t>& gradients);
  /// The bytes that a gradient takes up: gradients begin on cache lines, so that the kernels that
  /// write them need not start askew.
  [[nodiscard]] static std::size_t padded(std::size_t bytes);
};

}  // namespace lockstep
