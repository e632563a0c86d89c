// SPDX-License-Identifier: BSD-3-Clause
#include "launch.h"

#include "errors.h"

#include <torch/torch.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <thread>

namespace example {

int print_text(const ParsedOptions& parsed, const lockstep::LaunchEnvironment& launch) {
  if (launch.rank == 0) {
    (parsed.exit_code == 0 ? std::cout : std::cerr) << parsed.text << std::flush;
  } else if (parsed.exit_code != 0) {
    let_others_speak();  // rank 0 prints meanwhile
  }
  return parsed.exit_code;
}

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

void use_threads(int threads, const lockstep::ProcessGroup& group) {
  // More threads than cores would make every rank slower.
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(threads > 0 ? threads : std::max(1, cores / group.local_size()));
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
