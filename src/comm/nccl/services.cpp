// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/services.h"

#include "native/cuda/cuda_device.h"
#include "native/nccl/nccl_library.h"

namespace lockstep {

NcclServices make_nccl_services() {
  NcclServices services;
  services.nccl = native::make_nccl_library();
  services.device = native::make_cuda_device();
  return services;
}

std::string gpu_address(int device) {
  return native::cuda_bus_address(device);
}

}  // namespace lockstep
