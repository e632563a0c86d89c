// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "parallel/ddp/module_state.h"
#include "parallel/ddp/sample_count.h"

namespace lockstep {

/// What a reducer hands over to its successor: everything that its next backward would have done
/// beside averaging that backward's gradients.
struct UnfinishedReduction {
  std::vector<at::Tensor> waiting;  ///< parameters whose gradients wait for their average
  NamedTensors shared;              ///< tensors that get rank 0's values
  SampleCount samples;
};

}  // namespace lockstep
