// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "native/nccl/nccl_api.h"

namespace lockstep::native {

/// The NCCL that LibTorch brings.
[[nodiscard]] std::shared_ptr<NcclApi> make_nccl_library();

}  // namespace lockstep::native
