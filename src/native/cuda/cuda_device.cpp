// SPDX-License-Identifier: BSD-3-Clause
#include "native/cuda/cuda_device.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <stdexcept>
#include <string>

#include "native/cuda/event_pool.h"

namespace lockstep::native {
namespace {

void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

c10::DeviceIndex index_of(int device) {
  return static_cast<c10::DeviceIndex>(device);
}
cudaStream_t stream_of(void* stream) {
  return static_cast<cudaStream_t>(stream);
}
cudaEvent_t event_of(void* event) {
  return static_cast<cudaEvent_t>(event);
}

/// While one lives, no call of this thread spoils a capture: a query of an event that was recorded
/// before the capture would.
class RelaxedCapture {
 public:
  RelaxedCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), kCall); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

  static constexpr const char* kCall = "cudaThreadExchangeStreamCaptureMode";

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // the other one, from then on
};

class CudaDevice final : public DeviceApi {
 public:
  int make_current(int device) override { return c10::cuda::ExchangeDevice(index_of(device)); }
  void restore(int device) override { c10::cuda::MaybeSetDevice(index_of(device)); }
  int current_device() override { return c10::cuda::current_device(); }

  Stream current_stream(int device) override {
    return c10::cuda::getCurrentCUDAStream(index_of(device)).stream();
  }
  Stream create_stream(int device) override {
    const DeviceScope scope(*this, device);
    int least = 0;
    int greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
          "cudaStreamCreateWithPriority");
    return stream;
  }
  void destroy_stream(Stream stream) noexcept override { cudaStreamDestroy(stream_of(stream)); }

  int compute_capability(int device) override {
    int major = 0;
    int minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
          "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
          "cudaDeviceGetAttribute");
    return 10 * major + minor;
  }

  Event create_event(int device) override {
    return events_.take(device, [&]() -> Event {
      const DeviceScope scope(*this, device);
      cudaEvent_t event = nullptr;
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      return event;
    });
  }
  void destroy_event(Event event) noexcept override { events_.give_back(event); }

  void record(Event event, Stream stream) override {
    check(cudaEventRecord(event_of(event), stream_of(stream)), "cudaEventRecord");
  }
  void make_wait(Stream stream, Event event) override {
    check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "cudaStreamWaitEvent");
  }
  bool is_done(Event event) override {
    const RelaxedCapture relaxed;
    const cudaError_t state = cudaEventQuery(event_of(event));
    if (state == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());  // an answer, not an error for LibTorch to find
      return false;
    }
    check(state, "cudaEventQuery");
    return true;
  }

  bool is_capturing(Stream stream) override {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream_of(stream), &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
  }
  void allow_captures() override {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
    check(cudaThreadExchangeStreamCaptureMode(&mode), RelaxedCapture::kCall);
  }

  void zero(void* data, std::size_t bytes, Stream stream) override {
    check(cudaMemsetAsync(data, 0, bytes, stream_of(stream)), "cudaMemsetAsync");
  }
  void copy(void* target, const void* source, std::size_t bytes, Stream stream) override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream_of(stream)),
          "cudaMemcpyAsync");
  }

 private:
  // A step takes two events a bucket; their order alone is used, so that they serve again and
  // again.
  EventPool events_{[](Event event) { cudaEventDestroy(event_of(event)); }};
};

}  // namespace

std::shared_ptr<DeviceApi> make_cuda_device() {
  return std::make_shared<CudaDevice>();
}

std::string cuda_bus_address(int device) {
  std::array<char, 32> text{};
  check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device),
        "cudaDeviceGetPCIBusId");
  return text.data();
}

}  // namespace lockstep::native
