// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <functional>
#include <string>

namespace lockstep::testing {

/// For claims about a limit that one thing must pass and another must stay below: how long a limit
/// the other one needs, the machine says. Tries longer and longer limits until `attempt` gives "";
/// what else it gives or throws says what went wrong. A program that is wrong is so with each of
/// them.
inline void expect_with_some_limit(
    const std::function<std::string(std::chrono::milliseconds limit)>& attempt,
    std::chrono::milliseconds first = std::chrono::milliseconds(500)) {
  constexpr int kAttempts = 5;
  std::string texts;
  for (auto limit = first; limit < first * (1 << kAttempts); limit *= 2) {
    std::string text;
    try {
      text = attempt(limit);
      if (text.empty()) return;
    } catch (const std::exception& error) {
      text = std::string("it threw: ") + error.what();
    }
    texts += "\nwith a limit of " + std::to_string(limit.count()) + " ms: " + text;
  }
  ADD_FAILURE() << "no limit was long enough" << texts;
}

}  // namespace lockstep::testing
