// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
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

/// What a program prints, and the exit code that it leaves with, where it does not run.
struct Ending {
  std::string text;  // ends in a line break
  int exit_code = 0;
};

/// Reads the command line, and then asks `mistake_of` what no option can know alone: one line
/// without its end, or nothing. `--help` is an ending with exit code 0 and the help; a mistake is
/// one with exit code 2 and one line that begins with the name of the program. Nothing where the
/// program may run.
[[nodiscard]] std::optional<Ending> read_command_line(
    CLI::App& app, int argc, const char* const* argv,
    const std::function<std::string()>& mistake_of = [] { return std::string(); });

}  // namespace example
