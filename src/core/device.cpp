// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <lockstep/core/device.h>

namespace lockstep {

c10::Device bind_device(int local_rank) {
  TORCH_CHECK(local_rank >= 0, "bind_device: local_rank is ", local_rank, "; it must be 0 or more");
  // Through ATen's hooks: they say "no CUDA" where libtorch_cuda is not loaded, so that one source
  // serves both builds.
  if (!at::hasCUDA()) return c10::Device(c10::kCPU);
  const auto count = at::detail::getCUDAHooks().deviceCount();
  if (count == 0) return c10::Device(c10::kCPU);
  const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(local_rank % count));
  c10::impl::getDeviceGuardImpl(c10::kCUDA)->setDevice(device);
  return device;
}

}  // namespace lockstep
