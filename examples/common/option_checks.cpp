// SPDX-License-Identifier: BSD-3-Clause
#include "option_checks.h"

#include "start.h"

#include <algorithm>
#include <cmath>

namespace example {
namespace {

// CLI11's own validators let NaN pass and say "Number less or equal to 0" without the reason.
CLI::Validator number_that(const std::string& claim, bool (*holds)(double)) {
  return CLI::Validator(
      [claim, holds](std::string& text) -> std::string {
        double value = 0;
        const bool is_number = CLI::detail::lexical_cast(text, value);
        return is_number && std::isfinite(value) && holds(value)
                   ? ""
                   : "must be " + claim + ", but is '" + text + "'";
      },
      "");
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

CLI::Validator positive() {
  return number_that("a positive number", [](double value) { return value > 0; });
}

CLI::Validator not_negative() {
  return number_that("zero or a positive number", [](double value) { return value >= 0; });
}

CLI::Validator fraction() {
  return number_that("at least 0 and below 1",
                     [](double value) { return value >= 0 && value < 1; });
}

CLI::Validator whole_number(int64_t low, int64_t high) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        int64_t value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return "";
        return "must be a whole number from " + std::to_string(low) + " to " +
               std::to_string(high) + ", but is '" + text + "'";
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> words) {
  return CLI::Validator(
      [words](std::string& text) -> std::string {
        if (std::find(words.begin(), words.end(), text) != words.end()) return "";
        return "must be one of " + joined(words) + ", but is '" + text + "'";
      },
      "");
}

const std::map<std::string, lockstep::Backend>& backends() {
  static const std::map<std::string, lockstep::Backend> names = {
      {"auto", lockstep::Backend::Auto}, {"shared-memory", lockstep::Backend::SharedMemory},
      {"mpi", lockstep::Backend::Mpi},   {"hierarchical", lockstep::Backend::Hierarchical},
      {"gloo", lockstep::Backend::Gloo}, {"single", lockstep::Backend::Single}};
  return names;
}

std::optional<Ending> read_command_line(CLI::App& app, int argc, const char* const* argv,
                                        const std::function<std::string()>& mistake_of) {
  std::string mistake;
  try {
    app.parse(argc, argv);
    mistake = mistake_of();
  } catch (const CLI::CallForHelp&) {
    return Ending{app.help(), 0};
  } catch (const CLI::ParseError& error) {
    mistake = error.what();
    // CLI11 spreads some messages over lines.
    std::replace(mistake.begin(), mistake.end(), '\n', ' ');
  }
  if (mistake.empty()) return std::nullopt;
  return Ending{app.get_name() + ": " + mistake + " (--help lists the options)\n", kUsageError};
}

}  // namespace example
