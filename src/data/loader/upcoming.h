// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

/// How the parts that look ahead are told which samples come next.
namespace lockstep::data::detail {

constexpr int kPlaceBits = 24;

/// A place in the order of samples: of a batch, by its number, and within the batch.
[[nodiscard]] constexpr std::uint64_t place_word(std::uint64_t batch, std::size_t place) {
  return batch << kPlaceBits | std::min<std::size_t>(place, (std::size_t{1} << kPlaceBits) - 1);
}

[[nodiscard]] constexpr std::uint64_t batch_of_place(std::uint64_t word) {
  return word >> kPlaceBits;
}
[[nodiscard]] constexpr std::size_t place_in_batch(std::uint64_t word) {
  return static_cast<std::size_t>(word & ((std::uint64_t{1} << kPlaceBits) - 1));
}

/// What is done about a sample that comes later; false: no more now, this one comes again.
using UseUpcoming = std::function<bool(std::int64_t index, std::uint64_t place)>;

}  // namespace lockstep::data::detail
