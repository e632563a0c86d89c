// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <string>

namespace example {

/// What a program returns to the shell after a mistake on its command line.
constexpr int kUsageError = 2;

/// Prints what the command line asked for or did wrong, on rank 0 only, and returns `exit_code`.
[[nodiscard]] int print_text(const std::string& text, int exit_code,
                             const lockstep::LaunchEnvironment& launch);

/// Gives this rank's computations `threads` threads; for 0 its share of the cores of the host.
void use_threads(int threads, const lockstep::ProcessGroup& group);

}  // namespace example
