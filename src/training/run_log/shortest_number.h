// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <charconv>
#include <string>

namespace lockstep::training {

/// A finite number in the fewest digits that give the same double again, as JSON and Prometheus
/// read it.
inline std::string shortest_number(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return {digits.data(), end};
}

}  // namespace lockstep::training
