// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include "comm/nccl/services.h"

namespace lockstep {

/// The id under which the ranks of a new communicator find each other.
struct SharedUniqueId {
  native::NcclResult result;  ///< of `ncclGetUniqueId` on rank 0
  native::NcclUniqueId id;
};

/// Makes the id on rank 0 and broadcasts it over the control group. All ranks get the same result:
/// they must learn that there is no id instead of waiting for it. Collective. Blocks.
[[nodiscard]] SharedUniqueId share_unique_id(const NcclServices& services, int device,
                                             ProcessGroup& control);

}  // namespace lockstep
