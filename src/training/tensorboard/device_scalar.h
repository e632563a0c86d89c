// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <optional>

namespace lockstep::training {

/// The value that a tensor of one element of a device has at this point of the current stream, on
/// its way to the CPU.
///
/// Thread-safety: one thread makes it; afterwards one thread at a time.
class DeviceScalar {
 public:
  /// Nothing: the device has no events or no pinned memory. Then the caller waits for the device.
  [[nodiscard]] static std::optional<DeviceScalar> start(const at::Tensor& tensor);

  /// Throws: what the device throws.
  [[nodiscard]] bool has_arrived();
  /// When it has arrived.
  [[nodiscard]] double value() const;

 private:
  DeviceScalar(at::Tensor target, c10::Event event, c10::Device device)
      : target_(std::move(target)), event_(std::move(event)), device_(device) {}

  at::Tensor target_;  // on the CPU, pinned
  c10::Event event_;
  c10::Device device_;
};

}  // namespace lockstep::training
