// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/action.h>

#include <cstddef>
#include <ostream>

#include "files/bounded_view.h"

namespace lockstep::pipeline {
namespace {

// So that no sum or product of a few numbers overflows.
constexpr std::size_t kMostDigits = 9;

char letter_of(ActionKind kind) {
  switch (kind) {
    case ActionKind::Forward:
      return 'F';
    case ActionKind::BackwardInput:
      return 'I';
    case ActionKind::BackwardWeight:
      return 'W';
    case ActionKind::Backward:
      return 'B';
  }
  TORCH_CHECK(false, "there is no action of kind ", static_cast<int>(kind));
  __builtin_unreachable();
}

bool is_digit(char letter) {
  return letter >= '0' && letter <= '9';
}

/// Takes the number at the begin of `text` away. -1: there is none, or it is too long.
std::int64_t take_number(std::string_view& text) {
  std::size_t digits = 0;
  std::int64_t number = 0;
  for (; digits < text.size() && is_digit(text[digits]); ++digits) {
    if (digits == kMostDigits) return -1;
    number = 10 * number + (text[digits] - '0');
  }
  text.remove_prefix(digits);
  return digits == 0 ? -1 : number;
}

/// Takes the letter at the begin of `text` away; false: it stands for no kind.
bool take_kind(std::string_view& text, ActionKind& kind) {
  if (text.empty()) return false;
  for (const auto each : {ActionKind::Forward, ActionKind::BackwardInput,
                          ActionKind::BackwardWeight, ActionKind::Backward}) {
    if (letter_of(each) != text.front()) continue;
    kind = each;
    text.remove_prefix(1);
    return true;
  }
  return false;
}

}  // namespace

std::string to_string(const Action& action) {
  std::string text = std::to_string(action.stage);
  text += letter_of(action.kind);
  text += std::to_string(action.microbatch);
  return text;
}

std::ostream& operator<<(std::ostream& out, const Action& action) {
  return out << to_string(action);
}

Action parse_action(std::string_view text) {
  std::string_view rest = text;
  Action action;
  action.stage = take_number(rest);
  const bool is_kind = action.stage >= 0 && take_kind(rest, action.kind);
  action.microbatch = is_kind ? take_number(rest) : -1;
  TORCH_CHECK(action.microbatch >= 0 && rest.empty(), "expected stage, kind (F, I, W or B) and ",
              "microbatch, as in 2F0, in numbers of at most ", kMostDigits, " digits; found ",
              files::in_quotes(text));
  return action;
}

}  // namespace lockstep::pipeline
