// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/deferred_release.h"

#include <ATen/Context.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "concurrency/deadline.h"

namespace lockstep::data::detail {
namespace {

constexpr std::chrono::microseconds kReleaseSlice{100};

// An event changes the current device and back, which would begin something on a device that this
// thread never used; a guard around it comes back without that.
void discard(std::vector<c10::Event>& events) {
  while (!events.empty()) {
    const c10::DeviceGuard guard(events.back().device());
    events.pop_back();
  }
}

}  // namespace

DeferredRelease::DeferredRelease(std::shared_ptr<workers::TaskChannel> channel,
                                 std::shared_ptr<native::HostPinning> pinning, std::byte* memory,
                                 std::size_t bytes, std::chrono::milliseconds patience)
    : channel_(std::move(channel)),
      pinning_(std::move(pinning)),
      memory_(memory),
      patience_(patience) {
  deferred_.reserve(channel_->slots());
  try {
    pinning_->pin(memory, bytes);
  } catch (const std::exception& error) {
    TORCH_CHECK(
        false, "DataLoader: pin_memory: ", bytes, " bytes of batches in ", channel_->slots(),
        " slots could not be pinned: ", error.what(),
        "; use fewer workers, fewer prefetch_batches or smaller batches, or pin_memory(false)");
  }
}

DeferredRelease::~DeferredRelease() {
  if (!owner_.is_current()) {  // slots and pinning are the rank's; events cannot be destroyed here
    native::leave_alone(std::move(deferred_));
    return;
  }
  const auto deadline = Deadline::after(patience_);
  for (release_finished(); count() > 0 && !is_silent_ && !deadline.has_passed();
       release_finished()) {
    std::this_thread::sleep_for(kReleaseSlice);
  }
  if (count() == 0) {
    pinning_->unpin(memory_);
    return;
  }
  try {
    logging::error("data loader: a device has not finished with " + std::to_string(count()) +
                   " batches after " + std::to_string(deadline.elapsed().count()) +
                   " s; their memory is not given back");
    static_cast<void>(new std::shared_ptr<workers::TaskChannel>(channel_));
  } catch (...) {  // no memory to say so
  }
}

void DeferredRelease::defer(std::size_t slot) noexcept {
  Deferred deferred{slot, false, {}};
  deferred.is_marked = mark(deferred);
  if (deferred.is_marked && deferred.events.empty()) return channel_->release(slot);
  const std::lock_guard lock(mutex_);
  deferred_.push_back(std::move(deferred));
  count_.store(deferred_.size(), std::memory_order_release);
}

void DeferredRelease::release_finished() noexcept {
  if (count() == 0 || !owner_.is_current()) return;
  const std::lock_guard lock(mutex_);
  is_silent_ = false;
  std::erase_if(deferred_, [this](Deferred& deferred) {
    if (!is_over(deferred)) return false;
    channel_->release(deferred.slot);
    return true;
  });
  count_.store(deferred_.size(), std::memory_order_release);
}

bool DeferredRelease::mark(Deferred& deferred) const noexcept {
  const auto type = pinning_->device_type();
  try {
    discard(deferred.events);
    const c10::impl::VirtualGuardImpl devices(type);
    const auto& hooks = at::globalContext().getAcceleratorHooksInterface(type);
    for (c10::DeviceIndex index = 0; index < devices.deviceCount(); ++index) {
      if (!hooks.hasPrimaryContext(index)) continue;
      const c10::Device device(type, index);
      const c10::DeviceGuard guard(device);
      c10::Event event(type);
      event.record(devices.getStream(device));
      deferred.events.push_back(std::move(event));
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// What the device cannot say, as of an event that was captured in a graph, is asked anew with other
// events: later ones, so never too early.
bool DeferredRelease::is_over(Deferred& deferred) noexcept {
  try {
    if (!deferred.is_marked) {
      deferred.is_marked = mark(deferred);
      is_silent_ = is_silent_ || !deferred.is_marked;
      return false;
    }
    for (const auto& event : deferred.events) {
      if (!event.query()) return false;
    }
    discard(deferred.events);
    return true;
  } catch (const std::exception&) {
    deferred.is_marked = false;
    return false;
  }
}

}  // namespace lockstep::data::detail
