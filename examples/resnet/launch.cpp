// SPDX-License-Identifier: BSD-3-Clause
#include "launch.h"

#include <string>

namespace example {

ParsedOptions check_launch(ParsedOptions parsed, const lockstep::LaunchEnvironment& launch) {
  if (parsed.options && parsed.options->backend == lockstep::Backend::Single &&
      launch.world_size > 1) {
    return {std::nullopt,
            "resnet: --backend: single is for one rank, but " + std::to_string(launch.world_size) +
                " were started\n",
            kUsageError};
  }
  return parsed;
}

lockstep::training::ProgressStyle progress_style(ProgressStyle wanted, int rank) {
  using Style = lockstep::training::ProgressStyle;
  // run.sh, which sees the real terminals, chooses for the ranks that it starts.
  if (rank != 0 || wanted == ProgressStyle::Auto) {
    return lockstep::training::choose_progress_style(rank);
  }
  return wanted == ProgressStyle::Bar ? Style::Bar : Style::Lines;
}

}  // namespace example
