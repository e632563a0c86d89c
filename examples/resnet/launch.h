// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "options.h"

#include <lockstep/lockstep.h>

namespace example {

/// Prints what the command line asked for or did wrong, on rank 0 only, and returns the exit code.
[[nodiscard]] int print_text(const ParsedOptions& parsed,
                             const lockstep::LaunchEnvironment& launch);

/// A mistake in how the options fit the launch: exit code 2 and one line, as a mistake on the
/// command line.
[[nodiscard]] ParsedOptions check_launch(ParsedOptions parsed,
                                         const lockstep::LaunchEnvironment& launch);

/// Gives this rank's computations `threads` threads; for 0 its share of the cores of the host.
void use_threads(int threads, const lockstep::ProcessGroup& group);

/// How this rank shows its progress.
[[nodiscard]] lockstep::training::ProgressStyle progress_style(ProgressStyle wanted, int rank);

}  // namespace example
