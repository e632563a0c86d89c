// SPDX-License-Identifier: BSD-3-Clause
#include "start.h"

#include "errors.h"

#include <torch/torch.h>

#include <algorithm>
#include <iostream>
#include <thread>

namespace example {

int print_text(const std::string& text, int exit_code, const lockstep::LaunchEnvironment& launch) {
  if (launch.rank == 0) (exit_code == 0 ? std::cout : std::cerr) << text << std::flush;
  if (exit_code != 0) let_others_speak();  // rank 0 prints, and the others wait for that
  return exit_code;
}

void use_threads(int threads, const lockstep::ProcessGroup& group) {
  // More threads than cores would make every rank slower.
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(threads > 0 ? threads : std::max(1, cores / group.local_size()));
}

}  // namespace example
