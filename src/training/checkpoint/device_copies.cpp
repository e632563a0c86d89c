// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/device_copies.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "native/posix/owning_process.h"

namespace lockstep::training {
namespace {

// A copy takes milliseconds, and nothing wakes the thread when it is there.
constexpr std::chrono::milliseconds kCopyInterval{1};

}  // namespace

DeviceCopies::~DeviceCopies() {
  try {
    if (tensors_.empty() || are_there()) return;
  } catch (...) {  // the device answers no more
  }
  native::leave_alone(std::move(tensors_));
  native::leave_alone(std::move(devices_));
}

void DeviceCopies::enqueue(const at::Tensor& source, const at::Tensor& target) {
  const c10::Device device = source.device();
  const c10::DeviceGuard device_guard(device);
  const c10::impl::VirtualGuardImpl guard(device.type());
  auto found = devices_.find(device);
  if (found == devices_.end()) {
    const c10::Stream stream = guard.getStreamFromGlobalPool(device, /*isHighPriority=*/false);
    c10::Event is_ready(device.type());
    is_ready.record(guard.getStream(device));
    is_ready.block(stream);
    found = devices_.emplace(device, OneDevice{stream, {}}).first;
  }
  const c10::StreamGuard stream_guard(found->second.stream);
  tensors_.push_back(source);
  tensors_.push_back(target);
  target.copy_(source, /*non_blocking=*/true);
}

void DeviceCopies::end() {
  for (auto& [device, copies] : devices_) {
    const c10::DeviceGuard guard(device);
    copies.is_there.emplace_back(device.type()).record(copies.stream);
  }
}

void DeviceCopies::order_before_current_streams() {
  const std::lock_guard lock(mutex_);
  for (auto& [device, copies] : devices_) {
    const c10::DeviceGuard guard(device);
    const auto current = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    for (auto& event : copies.is_there) event.block(current);
  }
}

bool DeviceCopies::are_there() {
  const std::lock_guard lock(mutex_);
  for (auto& [device, copies] : devices_) {
    const c10::DeviceGuard guard(device);
    for (auto& event : copies.is_there) {
      if (!event.query()) return false;
    }
    copies.is_there.clear();
  }
  tensors_.clear();
  return true;
}

void DeviceCopies::wait(const Deadline& deadline) {
  while (!are_there()) {
    TORCH_CHECK(!deadline.has_passed(), "the copies from the device are not there after ",
                deadline.elapsed().count(), " s");
    std::this_thread::sleep_for(kCopyInterval);
  }
}

}  // namespace lockstep::training
