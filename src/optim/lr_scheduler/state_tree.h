// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::optim::lr_scheduler {

struct StateValue;

/// One object of a schedule's state.
using StateObject = std::map<std::string, StateValue>;

/// A value of one: a scalar, an object or an array of either.
struct StateValue {
  bool is_array = false;
  std::vector<std::string> scalars;  ///< their text in JSON; that of a text begins with a quote
  std::vector<std::shared_ptr<StateObject>> objects;
};

/// Reads a whole state. `schedule`: the class, for messages.
/// Throws: `c10::Error` for a text that is no JSON, or no object of such values.
[[nodiscard]] std::shared_ptr<const StateObject> parse_state(const char* schedule,
                                                             std::string_view text);

}  // namespace lockstep::optim::lr_scheduler
