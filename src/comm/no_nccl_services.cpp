// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/nccl_services.h"

namespace lockstep {

NcclServices make_nccl_services() {
  throw LaunchError(
      "this build of Lockstep has no NCCL backend; build it with -DLOCKSTEP_WITH_CUDA=ON");
}

}  // namespace lockstep
