// SPDX-License-Identifier: BSD-3-Clause
#include "files/json_number.h"

#include <array>
#include <charconv>
#include <cmath>

namespace lockstep::files {

std::string json_number(double value) {
  if (!std::isfinite(value)) {
    return std::isnan(value) ? "\"nan\"" : value > 0 ? "\"inf\"" : "\"-inf\"";
  }
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  std::string result(text.data(), end);
  if (result.find_first_of(".e") == std::string::npos) result += ".0";
  return result;
}

}  // namespace lockstep::files
