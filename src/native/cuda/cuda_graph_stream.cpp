// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "native/cuda/graph_stream.h"

namespace lockstep::native {
namespace {

/// A stream that no other user has, as streams of LibTorch's pool do: copies of another thread
/// would become part of a graph. Streams are used again and never destroyed, since the allocator
/// knows memory by them.
class OwnStream {
 public:
  explicit OwnStream(int device) : device_(static_cast<c10::DeviceIndex>(device)) {
    const std::lock_guard lock(mutex());
    auto& idle = idle_streams()[device];
    if (!idle.empty()) {
      stream_ = idle.back();
      idle.pop_back();
      return;
    }
    const c10::cuda::CUDAGuard guard(device_);
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~OwnStream() {
    const std::lock_guard lock(mutex());
    idle_streams()[device_].push_back(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  [[nodiscard]] c10::cuda::CUDAStream get() const {
    return c10::cuda::getStreamFromExternal(stream_, device_);
  }

 private:
  static std::mutex& mutex() {
    static auto* kept = new std::mutex;  // a GraphedStep may be of static duration
    return *kept;
  }
  static std::map<int, std::vector<cudaStream_t>>& idle_streams() {
    static auto* kept = new std::map<int, std::vector<cudaStream_t>>;
    return *kept;
  }

  c10::DeviceIndex device_;
  cudaStream_t stream_ = nullptr;
};

class CudaGraphStream final : public GraphStream {
 public:
  explicit CudaGraphStream(int device) : own_(device), stream_(own_.get()) {}

  void enter() override {
    before_ = c10::cuda::getCurrentCUDAStream(stream_.device_index());
    begin_.record(*before_);
    begin_.block(stream_);
    c10::cuda::setCurrentCUDAStream(stream_);
  }
  void leave() override {
    if (!before_) return;
    c10::cuda::setCurrentCUDAStream(*before_);
    end_.record(stream_);
    end_.block(*before_);
    before_.reset();
  }

  void capture(const std::function<void()>& body) override {
    free_cached_memory();
    graph_.emplace();
    try {
      const auto pool = at::cuda::graph_pool_handle();
      // Other threads go on as they like: ranks may be threads, and loaders copy in theirs.
      graph_->capture_begin(pool, cudaStreamCaptureModeThreadLocal);
      std::exception_ptr error;
      try {
        body();
      } catch (...) {
        error = std::current_exception();
      }
      end_capture(pool, error);
    } catch (...) {
      graph_.reset();
      throw;
    }
  }
  [[nodiscard]] bool has_graph() const override { return graph_.has_value(); }
  void replay() override { graph_->replay(); }
  void drop_graph() override { graph_.reset(); }

 private:
  // A graph has memory of its own, and while one is captured the allocator takes none of what the
  // steps before have left, nor what a graph before has had.
  void free_cached_memory() {
    stream_.synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    at::getHostAllocator(at::kCUDA)->empty_cache();
  }

  /// Throws: `error`, if there is one, since it says more than what the device says then.
  void end_capture(c10::MempoolId_t pool, const std::exception_ptr& error) {
    try {
      graph_->capture_end();
    } catch (...) {
      leave_pool(pool);
      if (!error) throw;
    }
    if (error) std::rethrow_exception(error);
  }

  // Where the device has spoiled the capture, LibTorch leaves its allocators in the midst of it.
  void leave_pool(c10::MempoolId_t pool) noexcept {
    const auto device = stream_.device_index();
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device, pool);
      c10::cuda::CUDACachingAllocator::releasePool(device, pool);
    } catch (...) {  // it had ended
    }
    try {
      auto* host = at::getHostAllocator(at::kCUDA);
      host->end_allocate_to_pool(pool);
      host->release_pool(pool);
    } catch (...) {  // likewise
    }
  }

  OwnStream own_;
  c10::cuda::CUDAStream stream_;
  std::optional<c10::cuda::CUDAStream> before_;
  at::cuda::CUDAEvent begin_, end_;  // without timing
  std::optional<at::cuda::CUDAGraph> graph_;
};

}  // namespace

std::unique_ptr<GraphStream> make_graph_stream(int device) {
  return std::make_unique<CudaGraphStream>(device);
}

}  // namespace lockstep::native
