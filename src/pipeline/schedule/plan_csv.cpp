// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/plan.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::pipeline {
namespace {

// More than any plan's, so that hostile texts do not fill the memory before a plan refuses them.
constexpr std::size_t kMostRanksInText = 4096;
constexpr std::size_t kMostActionsInText = std::size_t{1} << 20;

/// The text before the next `separator`, which goes away with it.
std::string_view take_until(std::string_view& text, char separator) {
  const auto end = std::min(text.find(separator), text.size());
  const auto piece = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return piece;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r";
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

/// What PyTorch's passes add to an order: a stage, a word and, for some, a microbatch.
bool is_derived(std::string_view cell) {
  constexpr std::string_view kDigits = "0123456789";
  const auto word = cell.find_first_not_of(kDigits);
  if (word == 0 || word == std::string_view::npos) return false;
  cell.remove_prefix(word);
  const auto end = std::min(cell.find_first_of(kDigits), cell.size());
  const bool numbered = end < cell.size();
  if (cell.find_first_not_of(kDigits, end) != std::string_view::npos) return false;
  cell = cell.substr(0, end);
  const auto is_one_of = [&](std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), cell) != words.end();
  };
  return is_one_of(
      numbered ? std::initializer_list<std::string_view>{"SEND_F", "RECV_F", "SEND_B", "RECV_B"}
               : std::initializer_list<std::string_view>{"UNSHARD", "RESHARD", "REDUCE_GRAD"});
}

/// Appends the actions of a line.
void read_line(std::string_view line, std::size_t number, std::size_t& total,
               std::vector<Action>& row) {
  for (std::size_t cell_number = 1; !line.empty(); ++cell_number) {
    const auto cell = trimmed(take_until(line, ','));
    if (cell.empty() || is_derived(cell)) continue;
    TORCH_CHECK(++total <= kMostActionsInText, "a pipeline's plan: line ", number, ": more than ",
                kMostActionsInText, " actions");
    try {
      row.push_back(parse_action(cell));
    } catch (const c10::Error& error) {
      TORCH_CHECK(false, "a pipeline's plan: line ", number, ", cell ", cell_number, ": ",
                  error.what_without_backtrace());
    }
  }
}

}  // namespace

std::string Plan::to_csv() const {
  std::string text;
  for (const auto& row : actions_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i > 0) text += ',';
      text += to_string(row[i]);
    }
    text += '\n';
  }
  return text;
}

Plan Plan::from_csv(std::string_view text) {
  // Line ends at the end of a text make no ranks.
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  std::vector<std::vector<Action>> rows;
  std::size_t total = 0;
  while (!text.empty()) {
    TORCH_CHECK(rows.size() < kMostRanksInText, "a pipeline's plan: more than ", kMostRanksInText,
                " lines; each line is the order of one rank");
    rows.emplace_back();
    read_line(take_until(text, '\n'), rows.size(), total, rows.back());
  }
  return Plan(std::move(rows));
}

}  // namespace lockstep::pipeline
