// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <iostream>
#include <string>

namespace example {

/// One line on stderr, whatever is in the message. It is written with one call, so that the lines
/// of two ranks do not mix.
inline void report(const std::string& program, std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::cerr << program + ": " + message + "\n" << std::flush;
}

}  // namespace example
