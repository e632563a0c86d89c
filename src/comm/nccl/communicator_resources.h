// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "comm/nccl/services.h"

namespace lockstep {

/// The stream on which NCCL's kernels run, and the places to which NCCL writes. A communicator and
/// the thread that aborts it share them: NCCL may use all of them until the abort has ended, which
/// can be later than the end of the communicator.
struct CommunicatorResources {
  CommunicatorResources(const NcclServices& services, int device)
      : stream(services.device, device) {}

  native::CommunicationStream stream;
  native::NcclCommunicatorHandle communicator = nullptr;
  /// The result of the latest division, until its caller takes it.
  native::NcclCommunicatorHandle part = nullptr;
  native::NcclWindow window = nullptr;  ///< the result of the latest registration
};

}  // namespace lockstep
