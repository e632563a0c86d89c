// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/DeviceType.h>

#include <chrono>
#include <memory>
#include <string>

#include "native/cuda/device_api.h"
#include "native/nccl/nccl_api.h"

namespace lockstep {

/// What the NCCL backend stands on. Tests bring a NCCL of their own, whose device memory is the
/// CPU's.
struct NcclServices {
  std::shared_ptr<native::NcclApi> nccl;
  std::shared_ptr<native::DeviceApi> device;
  c10::DeviceType device_type = c10::kCUDA;
  /// How often the watchdog looks whether the GPU still moves and the peers still live.
  std::chrono::milliseconds watch_interval{50};
  /// How long a rank's last operations may still end by themselves after a peer has gone: it may
  /// have done its part.
  std::chrono::milliseconds grace{500};
  /// How long is waited for what NCCL or the GPU still does with memory that is given back. What
  /// takes longer keeps it.
  std::chrono::milliseconds end_limit{10000};
};

/// NCCL and CUDA as LibTorch brings them. A build without CUDA has the same function; it throws.
/// Throws: `LaunchError`.
[[nodiscard]] NcclServices make_nccl_services();

/// The address of a GPU on this host's bus, by which NCCL tells GPUs apart. It is the same in
/// processes that see different GPUs. A build without CUDA throws.
/// Throws: `std::runtime_error`.
[[nodiscard]] std::string gpu_address(int device);

}  // namespace lockstep
