// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/call_context.h"

#include <cstdio>

namespace lockstep {

void NcclCallContext::check(native::NcclResult result, const char* call) const {
  if (result == native::NcclResult::Success || result == native::NcclResult::InProgress) return;
  throw nccl_failure(result, call, nccl.last_error(communicator));
}

OperationFailure nccl_failure(native::NcclResult result, const std::string& call,
                              const std::string& detail) {
  std::string reason = call + ": " + native::to_string(result);
  if (!detail.empty()) reason += " (" + detail + ")";
  const bool is_remote = result == native::NcclResult::RemoteError;
  return {is_remote ? OperationFailure::Kind::PeerLost : OperationFailure::Kind::Backend, reason,
          is_remote ? "look at what the other ranks reported first"
                    : "NCCL_DEBUG=WARN in the environment makes NCCL say more"};
}

OperationFailure nccl_timeout(const std::string& what, const Deadline& deadline) {
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.1f s", deadline.elapsed().count());
  return {OperationFailure::Kind::Timeout, "timed out after " + std::string(seconds) + ": " + what,
          "a rank is slow, stopped, or took another path through the program; with "
          "ProcessGroupOptions().check_calls(true) ranks say which one"};
}

}  // namespace lockstep
