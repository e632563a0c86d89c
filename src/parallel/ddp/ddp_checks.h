// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <torch/nn/module.h>

#include <string>

#include "parallel/ddp/module_state.h"

namespace lockstep {

/// What one rank can see of misuse. Throws: `c10::Error`.
void check_arguments(const torch::nn::Module& module,
                     const DistributedDataParallelOptions& options);

/// `parameters`: those that need gradients. Throws: `c10::Error` for none, or a dtype that has no
/// average.
void check_parameters(const NamedTensors& parameters);

/// All options that must be the same on all ranks, in one line.
[[nodiscard]] std::string describe(const DistributedDataParallelOptions& options);

}  // namespace lockstep
