// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/DeviceType.h>

#include <cstddef>
#include <memory>

namespace lockstep::native {

/// Pins memory of the host that LibTorch did not allocate, so that a device reads it by itself
/// while the program goes on. Streams and events need no seam of ours: LibTorch's are the same for
/// every kind of device.
///
/// Thread-safety: any thread.
class HostPinning {
 public:
  HostPinning() = default;
  virtual ~HostPinning() = default;
  HostPinning(const HostPinning&) = delete;
  HostPinning& operator=(const HostPinning&) = delete;

  /// The type of the devices that read the memory.
  [[nodiscard]] virtual c10::DeviceType device_type() const noexcept = 0;
  /// Pins memory for all devices of that type. Initialises no device that this process does not
  /// use, unless it uses none. Blocks: some tenths of a second for a gigabyte. Throws:
  /// `std::runtime_error` with what the system says.
  virtual void pin(void* data, std::size_t bytes) = 0;
  /// Only for memory that no device reads any more.
  virtual void unpin(void* data) noexcept = 0;
};

/// CUDA's; nothing where there is no GPU, or no CUDA in this build.
[[nodiscard]] std::shared_ptr<HostPinning> make_host_pinning();

}  // namespace lockstep::native
