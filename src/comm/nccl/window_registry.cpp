// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/window_registry.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

namespace lockstep {
namespace {

using native::DeviceScope;
using native::NcclResult;

constexpr std::chrono::microseconds kWindowPollInterval{200};

}  // namespace

void* WindowRegistry::allocate(std::size_t bytes) {
  const NcclServices& services = communicator_->services();
  const DeviceScope scope(*services.device, communicator_->device());
  void* data = nullptr;
  const NcclResult result = services.nccl->memory_allocate(&data, std::max<std::size_t>(1, bytes));
  return result == NcclResult::Success ? data : nullptr;
}

native::NcclWindow WindowRegistry::register_window(void* data, std::size_t bytes, bool is_symmetric,
                                                   const Deadline& deadline) {
  native::NcclWindow& place = communicator_->resources().window;
  const std::size_t registered = std::max<std::size_t>(1, bytes);
  communicator_->wait_until_ready(
      deadline, "NCCL does not get ready", [&](const NcclCallContext& c) {
        place = nullptr;
        c.check(c.nccl.window_register(c.communicator, data, registered, is_symmetric, &place),
                "ncclCommWindowRegister");
      });
  native::NcclWindow window = nullptr;
  communicator_->wait_until_ready(
      deadline, "the registration of memory", [&](const NcclCallContext& c) {
        window = place;
        if (window == nullptr) return;
        bool has_symmetric = false;
        if (is_symmetric) {
          c.check(c.nccl.window_is_symmetric(c.communicator, window, &has_symmetric),
                  "ncclWinGetUserPtr");
        }
        const std::lock_guard lock(mutex_);
        windows_[window] = {static_cast<const std::byte*>(data), registered, has_symmetric};
      });
  return window;
}

bool WindowRegistry::is_symmetric(const void* data, std::size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::lock_guard lock(mutex_);
  return std::any_of(windows_.begin(), windows_.end(), [&](const auto& item) {
    const Window& window = item.second;
    return window.is_symmetric && begin >= window.begin &&
           begin + bytes <= window.begin + window.bytes;
  });
}

void WindowRegistry::use_as_ordinary(const void* data) {
  const std::lock_guard lock(mutex_);
  for (auto& item : windows_) {
    if (item.second.begin == data) item.second.is_symmetric = false;
  }
}

void WindowRegistry::free(void* data, native::NcclWindow window) noexcept {
  try {
    const NcclServices& services = communicator_->services();
    const int device = communicator_->device();
    const DeviceScope scope(*services.device, device);
    // Unlike LibTorch's allocator, NCCL's takes memory away at once.
    native::DeviceEvent last_use(services.device, device);
    last_use.record(services.device->current_stream(device));
    const Deadline deadline = Deadline::after(services.end_limit);
    while (!last_use.is_done()) {
      if (deadline.has_passed()) return;  // still in use: a leak is better than wrong data
      std::this_thread::sleep_for(kWindowPollInterval);
    }
    if (deregister(window, deadline)) services.nccl->memory_free(data);
  } catch (...) {  // the device is beyond help; its memory goes with the process
  }
}

bool WindowRegistry::deregister(native::NcclWindow window, const Deadline& deadline) {
  std::optional<native::DeviceEvent> stream_end;
  while (communicator_->is_open()) {
    if (!contains(window)) return true;
    try {
      if (const auto loan = communicator_->try_borrow(stream_end)) {
        return deregister(*loan, window) == NcclResult::Success;
      }
    } catch (const OperationFailure&) {  // the communicator ends, and its windows with it
    }
    if (deadline.has_passed()) return false;  // a leak is better than wrong data
    std::this_thread::sleep_for(kWindowPollInterval);
  }
  return communicator_->wait_until_ended(deadline);
}

NcclResult WindowRegistry::deregister(const NcclCommunicator::Loan& loan,
                                      native::NcclWindow window) {
  if (!contains(window)) return NcclResult::Success;
  const NcclResult result =
      communicator_->services().nccl->window_deregister(loan.handle(), window);
  const std::lock_guard lock(mutex_);
  windows_.erase(window);
  return result;
}

void WindowRegistry::deregister_all(const Deadline& deadline) {
  while (const native::NcclWindow window = any_window()) {
    const auto loan = communicator_->borrow(deadline, "close");
    const DeviceScope scope(*communicator_->services().device, communicator_->device());
    communicator_->check(deregister(*loan, window), "ncclCommWindowDeregister");
  }
}

bool WindowRegistry::contains(native::NcclWindow window) {
  const std::lock_guard lock(mutex_);
  return windows_.contains(window);
}

native::NcclWindow WindowRegistry::any_window() {
  const std::lock_guard lock(mutex_);
  return windows_.empty() ? nullptr : windows_.begin()->first;
}

}  // namespace lockstep
