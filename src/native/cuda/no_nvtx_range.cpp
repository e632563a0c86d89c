// SPDX-License-Identifier: BSD-3-Clause
// For builds without CUDA, and for installations of CUDA without NVTX's headers.
#include "native/cuda/nvtx_range.h"

namespace lockstep::native {

bool begin_nvtx_range(std::string_view /*name*/) {
  return false;
}

void end_nvtx_range() noexcept {}

}  // namespace lockstep::native
