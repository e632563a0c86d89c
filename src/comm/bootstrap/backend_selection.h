// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>
#include <lockstep/core/environment.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/bootstrap/capabilities.h"

namespace lockstep {

struct BackendSelection {
  Backend transport = Backend::Single;  ///< for CPU tensors
  bool has_nccl = false;                ///< CUDA tensors go through NCCL
  /// CUDA tensors go through NCCL if each rank has a GPU of its own, which only all ranks together
  /// know; see `decide_on_nccl`.
  bool may_have_nccl = false;
  std::string reason;  ///< a few words for the log

  [[nodiscard]] Backend backend() const { return has_nccl ? Backend::Nccl : transport; }
};

/// Follows `wanted` where the launch allows it; chooses for `Backend::Auto`.
/// Throws: `LaunchError` for a backend that this launch or this build cannot have.
[[nodiscard]] BackendSelection select_backend(Backend wanted, const LaunchEnvironment& environment,
                                              const Capabilities& capabilities);

/// Takes NCCL if it may be taken and nothing stands in its way.
/// `gpus`: of each rank, a number that says which GPU of which host it uses; 0 for none.
void decide_on_nccl(BackendSelection& selection, const std::vector<std::int64_t>& gpus);

}  // namespace lockstep
