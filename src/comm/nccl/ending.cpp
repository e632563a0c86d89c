// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/ending.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace lockstep {
namespace {

// Far ahead, and near enough for every clock.
constexpr std::chrono::hours kLongest{24};

/// By value: the stream goes before others may think that all has ended.
void end_now(const NcclServices& services, int device, native::NcclCommunicatorHandle handle,
             std::shared_ptr<NcclPlaces> places) noexcept {
  try {
    const native::DeviceScope scope(*services.device, device);
    services.nccl->comm_abort(handle);
    if (places->part != nullptr) services.nccl->comm_abort(std::exchange(places->part, nullptr));
  } catch (...) {  // there is nothing left to do for it
  }
}

}  // namespace

NcclEnding::~NcclEnding() {
  if (!thread_) return;
  if (wait(Deadline::after(std::chrono::seconds(0)))) {
    thread_->join();
  } else {
    [[maybe_unused]] auto* kept = thread_.release();  // waits as long as NCCL does
  }
}

void NcclEnding::begin(const NcclServices& services, int device,
                       native::NcclCommunicatorHandle handle,
                       std::shared_ptr<NcclPlaces> places) noexcept {
  try {
    std::packaged_task<void()> task([services, device, handle, own = places]() mutable {
      end_now(services, device, handle, std::move(own));
    });
    end_ = task.get_future().share();
    thread_ = std::make_unique<std::thread>(std::move(task));
  } catch (const std::exception&) {  // no thread to be had
    end_now(services, device, handle, std::move(places));
  }
}

bool NcclEnding::wait(const Deadline& deadline) const {
  if (!end_.valid()) return true;
  const auto limit = std::min<std::chrono::nanoseconds>(deadline.remaining(), kLongest);
  return end_.wait_for(limit) == std::future_status::ready;
}

}  // namespace lockstep
