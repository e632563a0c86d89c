// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <string>

#include "native/cuda/device_api.h"

namespace lockstep::native {

/// CUDA, with LibTorch's current streams.
[[nodiscard]] std::shared_ptr<DeviceApi> make_cuda_device();

/// The device's address on the PCI bus, as `0000:3b:00.0`. Does not initialise the device.
/// Throws: `std::runtime_error`.
[[nodiscard]] std::string cuda_bus_address(int device);

}  // namespace lockstep::native
