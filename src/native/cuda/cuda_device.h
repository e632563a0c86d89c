// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "native/cuda/device_api.h"

namespace lockstep::native {

/// CUDA, with LibTorch's streams.
[[nodiscard]] std::shared_ptr<DeviceApi> make_cuda_device();

}  // namespace lockstep::native
