// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/DeviceType.h>

#include <chrono>
#include <memory>
#include <string>

#include "native/cuda/device_api.h"
#include "native/nccl/nccl_api.h"

namespace lockstep {

/// What the NCCL backend needs of the system. Tests bring a NCCL of their own, whose device memory
/// is the CPU's.
struct NcclServices {
  std::shared_ptr<native::NcclApi> nccl;
  std::shared_ptr<native::DeviceApi> device;
  c10::DeviceType device_type = c10::kCUDA;
  /// How often the watchdog looks whether the GPU still moves and the peers still live.
  std::chrono::milliseconds watch_interval{50};
  /// How long a rank's last operations may still end by themselves after a peer has gone: the peer
  /// may have done its part before.
  std::chrono::milliseconds grace{500};
  /// How long a rank that frees memory waits until NCCL and the GPU no longer use it. Memory that
  /// is used for longer is leaked.
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
