// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <string>

#include "comm/collective/operation.h"
#include "concurrency/deadline.h"
#include "native/cuda/device_api.h"
#include "native/nccl/nccl_api.h"

namespace lockstep {

/// What an operation's calls get.
struct NcclCallContext {
  native::NcclApi& nccl;
  native::DeviceApi& device;
  native::NcclCommunicatorHandle communicator;
  native::DeviceStream stream;
  int rank;
  int world_size;

  /// Throws: `OperationFailure` unless the call succeeded or is still in progress.
  void check(native::NcclResult result, const char* call) const;
};
using NcclCall = std::function<void(const NcclCallContext&)>;

/// `detail`: what NCCL itself says about its last error.
[[nodiscard]] OperationFailure nccl_failure(native::NcclResult result, const std::string& call,
                                            const std::string& detail);
[[nodiscard]] OperationFailure nccl_timeout(const std::string& what, const Deadline& deadline);

}  // namespace lockstep
