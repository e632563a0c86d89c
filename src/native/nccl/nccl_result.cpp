// SPDX-License-Identifier: BSD-3-Clause
#include "native/nccl/nccl_api.h"

namespace lockstep::native {

const char* to_string(NcclResult result) {
  switch (result) {
    case NcclResult::Success:
      return "success";
    case NcclResult::UnhandledCudaError:
      return "unhandled CUDA error";
    case NcclResult::SystemError:
      return "system error";
    case NcclResult::InternalError:
      return "internal error";
    case NcclResult::InvalidArgument:
      return "invalid argument";
    case NcclResult::InvalidUsage:
      return "invalid usage";
    case NcclResult::RemoteError:
      return "a remote process exited or there was a network error";
    case NcclResult::InProgress:
      return "in progress";
  }
  return "unknown error";
}

}  // namespace lockstep::native
