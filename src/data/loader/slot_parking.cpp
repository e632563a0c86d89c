// SPDX-License-Identifier: BSD-3-Clause
#include "data/loader/slot_parking.h"

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

constexpr std::chrono::microseconds kParkingSlice{100};

// An event changes the current device and back, which would begin something on a device that this
// thread never used; a guard around it comes back without that.
void discard(std::vector<c10::Event>& events) {
  while (!events.empty()) {
    const c10::DeviceGuard guard(events.back().device());
    events.pop_back();
  }
}

}  // namespace

SlotParking::SlotParking(std::shared_ptr<workers::SharedMemoryChannel> channel,
                         std::shared_ptr<native::HostPinning> pinning, std::byte* memory,
                         std::size_t bytes, std::chrono::milliseconds patience)
    : channel_(std::move(channel)),
      pinning_(std::move(pinning)),
      memory_(memory),
      patience_(patience) {
  parked_.reserve(channel_->slots());
  try {
    pinning_->pin(memory, bytes);
  } catch (const std::exception& error) {
    TORCH_CHECK(
        false, "DataLoader: pin_memory: ", bytes, " bytes of batches in ", channel_->slots(),
        " slots could not be pinned: ", error.what(),
        "; use fewer workers, fewer prefetch_batches or smaller batches, or pin_memory(false)");
  }
}

SlotParking::~SlotParking() {
  if (!owner_.is_current()) {  // slots and pinning are the rank's; events cannot be destroyed here
    native::leave_alone(std::move(parked_));
    return;
  }
  const auto deadline = Deadline::after(patience_);
  for (look(); count() > 0 && !is_silent_ && !deadline.has_passed(); look()) {
    std::this_thread::sleep_for(kParkingSlice);
  }
  if (count() == 0) {
    pinning_->unpin(memory_);
    return;
  }
  try {
    logging::error("data loader: a device has not finished with " + std::to_string(count()) +
                   " batches after " + std::to_string(deadline.elapsed().count()) +
                   " s; their memory is not given back");
    static_cast<void>(new std::shared_ptr<workers::SharedMemoryChannel>(channel_));
  } catch (...) {  // no memory to say so
  }
}

void SlotParking::park(std::size_t slot) noexcept {
  Parked parked{slot, false, {}};
  parked.is_marked = mark(parked);
  if (parked.is_marked && parked.events.empty()) return channel_->release(slot);
  const std::lock_guard lock(mutex_);
  parked_.push_back(std::move(parked));
  count_.store(parked_.size(), std::memory_order_release);
}

void SlotParking::look() noexcept {
  if (count() == 0 || !owner_.is_current()) return;
  const std::lock_guard lock(mutex_);
  is_silent_ = false;
  std::erase_if(parked_, [this](Parked& parked) {
    if (!is_over(parked)) return false;
    channel_->release(parked.slot);
    return true;
  });
  count_.store(parked_.size(), std::memory_order_release);
}

bool SlotParking::mark(Parked& parked) const noexcept {
  const auto type = pinning_->device_type();
  try {
    discard(parked.events);
    const c10::impl::VirtualGuardImpl devices(type);
    const auto& hooks = at::globalContext().getAcceleratorHooksInterface(type);
    for (c10::DeviceIndex index = 0; index < devices.deviceCount(); ++index) {
      if (!hooks.hasPrimaryContext(index)) continue;
      const c10::Device device(type, index);
      const c10::DeviceGuard guard(device);
      c10::Event event(type);
      event.record(devices.getStream(device));
      parked.events.push_back(std::move(event));
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// What the device cannot say, as of an event that was captured in a graph, is asked anew with other
// events: later ones, so never too early.
bool SlotParking::is_over(Parked& parked) noexcept {
  try {
    if (!parked.is_marked) {
      parked.is_marked = mark(parked);
      is_silent_ = is_silent_ || !parked.is_marked;
      return false;
    }
    for (const auto& event : parked.events) {
      if (!event.query()) return false;
    }
    discard(parked.events);
    return true;
  } catch (const std::exception&) {
    parked.is_marked = false;
    return false;
  }
}

}  // namespace lockstep::data::detail
