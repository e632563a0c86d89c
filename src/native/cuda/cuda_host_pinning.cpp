// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "native/cuda/host_pinning.h"

namespace lockstep::native {
namespace {

class CudaHostPinning final : public HostPinning {
 public:
  [[nodiscard]] c10::DeviceType device_type() const noexcept override { return c10::kCUDA; }

  void pin(void* data, std::size_t bytes) override {
    // LibTorch takes no memory for pinned while it has not initialised CUDA.
    at::globalContext().lazyInitDevice(c10::kCUDA);
    const c10::cuda::OptionalCUDAGuard guard(c10::cuda::getDeviceIndexWithPrimaryContext());
    const cudaError_t error = cudaHostRegister(data, bytes, cudaHostRegisterPortable);
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // ours, not one for LibTorch to find
    throw std::runtime_error(std::string("cudaHostRegister: ") + cudaGetErrorString(error));
  }

  void unpin(void* data) noexcept override {
    try {
      const c10::cuda::OptionalCUDAGuard guard(c10::cuda::getDeviceIndexWithPrimaryContext());
      if (cudaHostUnregister(data) != cudaSuccess) static_cast<void>(cudaGetLastError());
    } catch (...) {  // the driver is gone, and what it knew with it
    }
  }
};

}  // namespace

std::shared_ptr<HostPinning> make_host_pinning() {
  if (c10::cuda::device_count() == 0) return nullptr;
  return std::make_shared<CudaHostPinning>();
}

}  // namespace lockstep::native
