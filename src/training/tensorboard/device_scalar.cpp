// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/device_scalar.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <exception>
#include <utility>

namespace lockstep::training {

std::optional<DeviceScalar> DeviceScalar::start(const at::Tensor& tensor) {
  const at::NoGradGuard no_gradients;
  try {
    const c10::Device device = tensor.device();
    const c10::DeviceGuard guard(device);
    at::Tensor target = at::empty(
        tensor.sizes(), at::TensorOptions().dtype(tensor.scalar_type()).pinned_memory(true));
    // Freed early, the memory is kept by LibTorch's allocator until the device has written it.
    target.copy_(tensor.detach(), /*non_blocking=*/true);
    c10::Event event(device.type());
    event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    return DeviceScalar(std::move(target), std::move(event), device);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

bool DeviceScalar::has_arrived() {
  const c10::DeviceGuard guard(device_);
  return event_.query();
}

double DeviceScalar::value() const {
  return target_.item<double>();
}

}  // namespace lockstep::training
