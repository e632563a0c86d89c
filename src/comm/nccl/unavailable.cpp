// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/nccl/services.h"

namespace lockstep {

namespace {

[[noreturn]] void refuse() {
  throw LaunchError(
      "this build of Lockstep has no NCCL backend; build it with -DLOCKSTEP_WITH_CUDA=ON");
}

}  // namespace

NcclServices make_nccl_services() {
  refuse();
}

std::string gpu_address(int) {
  refuse();
}

}  // namespace lockstep
