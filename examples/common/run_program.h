// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace example {

/// Reads the command line of a program, runs `body`, and returns the exit code. A mistake on the
/// command line is one line on stderr and 2, an exception of `body` one line and 1; both begin with
/// the name of the program.
[[nodiscard]] int run_program(CLI::App& app, int argc, char** argv,
                              const std::function<void()>& body);

}  // namespace example
