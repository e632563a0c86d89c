// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "options.h"

#include <lockstep/lockstep.h>

namespace example {

/// A mistake in how the options fit the launch: exit code 2 and one line, as a mistake on the
/// command line.
[[nodiscard]] ParsedOptions check_launch(ParsedOptions parsed,
                                         const lockstep::LaunchEnvironment& launch);

/// How this rank shows its progress.
[[nodiscard]] lockstep::training::ProgressStyle progress_style(ProgressStyle wanted, int rank);

}  // namespace example
