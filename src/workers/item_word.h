// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

/// What stands in a task's place for an item: its number, or what has become of it.
namespace lockstep::workers {

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

}  // namespace lockstep::workers
