// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

/// What the command lines of the examples check alike. Each check says in one line what would be
/// right and what was given.
namespace example {

[[nodiscard]] CLI::Validator positive();
[[nodiscard]] CLI::Validator not_negative();
/// At least 0 and below 1.
[[nodiscard]] CLI::Validator fraction();
/// From `low` to `high`, both included.
[[nodiscard]] CLI::Validator whole_number(int64_t low, int64_t high);
[[nodiscard]] CLI::Validator one_of(std::vector<std::string> words);

/// The names of the backends on a command line.
[[nodiscard]] const std::map<std::string, lockstep::Backend>& backends();

/// The names that a map of enumerators has.
template <typename Value>
[[nodiscard]] std::vector<std::string> keys(const std::map<std::string, Value>& names) {
  std::vector<std::string> result;
  for (const auto& each : names) result.push_back(each.first);
  return result;
}

/// CLI11 spreads some messages over lines.
[[nodiscard]] std::string one_line(std::string text);

}  // namespace example
