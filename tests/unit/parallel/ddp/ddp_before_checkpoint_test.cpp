// SPDX-License-Identifier: BSD-3-Clause
// One order of the two headers; checkpoint_before_ddp_test.cpp has the other.
// clang-format off
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/activation_checkpoint.h>
// clang-format on

#include "unit/parallel/ddp/optional_outputs.h"

namespace lockstep::testing {

TEST(IncludeOrder, DdpBeforeCheckpointFindsOptionalTensors) {
  check_optional_outputs(2);
}

}  // namespace lockstep::testing
