// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/abort_thread.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace lockstep {
namespace {

// Far ahead, and near enough for every clock.
constexpr std::chrono::hours kLongest{24};

/// Takes `resources` by value: its stream must be destroyed before anybody learns that the abort
/// has ended.
void abort_now(const NcclServices& services, int device, native::NcclCommunicatorHandle handle,
               std::shared_ptr<CommunicatorResources> resources) noexcept {
  try {
    const native::DeviceScope scope(*services.device, device);
    services.nccl->comm_abort(handle);
    if (resources->part != nullptr) {
      services.nccl->comm_abort(std::exchange(resources->part, nullptr));
    }
  } catch (...) {  // nothing else can be done for the communicator
  }
}

}  // namespace

AbortThread::~AbortThread() {
  if (!thread_) return;
  if (wait(Deadline::after(std::chrono::seconds(0)))) {
    thread_->join();
  } else {
    [[maybe_unused]] auto* kept = thread_.release();  // waits as long as NCCL does
  }
}

void AbortThread::begin(const NcclServices& services, int device,
                        native::NcclCommunicatorHandle handle,
                        std::shared_ptr<CommunicatorResources> resources) noexcept {
  try {
    std::packaged_task<void()> task([services, device, handle, own = resources]() mutable {
      abort_now(services, device, handle, std::move(own));
    });
    end_ = task.get_future().share();
    thread_ = std::make_unique<std::thread>(std::move(task));
  } catch (const std::exception&) {  // the system has no thread left
    abort_now(services, device, handle, std::move(resources));
  }
}

bool AbortThread::wait(const Deadline& deadline) const {
  if (!end_.valid()) return true;
  const auto limit = std::min<std::chrono::nanoseconds>(deadline.remaining(), kLongest);
  return end_.wait_for(limit) == std::future_status::ready;
}

}  // namespace lockstep
