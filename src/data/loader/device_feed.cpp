// SPDX-License-Identifier: BSD-3-Clause
// Behind the last step of a sample's path, where the program trains on a GPU: batches are copied
// there on a stream of their own.
#include <ATen/DeviceAccelerator.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <lockstep/data/loader/detail/device_feed.h>

#include <optional>
#include <utility>

#include "data/samples/tree_tensors.h"
#include "native/posix/owning_process.h"

namespace lockstep::data::detail {
namespace {

c10::Device checked(c10::Device device) {
  if (device.is_cpu()) return device;
  const bool is_known =
      at::isAccelerator(device.type()) && c10::impl::hasDeviceGuardImpl(device.type());
  const int count = is_known ? c10::impl::VirtualGuardImpl(device.type()).deviceCount() : 0;
  TORCH_CHECK(count > 0 && device.index() < count, "DevicePrefetcher: there is no device ", device,
              "; this program sees ", count, " of that kind");
  if (device.has_index()) return device;
  return c10::impl::VirtualGuardImpl(device.type()).getDevice();
}

}  // namespace

/// A batch whose copies are under way, or what went wrong with it.
struct DeviceFeed::Copied {
  SampleTree batch;
  std::vector<at::Tensor> copies;      // those made on the stream of copies
  std::optional<c10::Event> is_there;  // after all of them
  std::exception_ptr error;
  native::OwningProcess owner{};
};

DeviceFeed::DeviceFeed(LoaderEngine& engine, c10::Device device)
    : engine_(engine), device_(checked(device)), copies_(!device_.is_cpu()) {}

DeviceFeed::~DeviceFeed() {
  if (ahead_ != nullptr && !ahead_->owner.is_current()) {  // no device answers in a fork
    [[maybe_unused]] auto* kept = ahead_.release();
    return;
  }
  try {
    restart();
  } catch (...) {  // the device is gone, and its memory with it
  }
}

void DeviceFeed::restart() {
  if (ahead_ == nullptr) return;
  const c10::DeviceGuard guard(device_);
  ahead_.reset();
}

bool DeviceFeed::has_next() {
  return ahead_ != nullptr || engine_.has_next();
}

SampleTree DeviceFeed::next() {
  if (!copies_) return engine_.next();
  const auto taken = std::exchange(ahead_, nullptr);
  Copied batch = taken ? std::move(*taken) : copy_next();
  engine_.mark_received();
  if (batch.error) std::rethrow_exception(batch.error);
  hand_over(batch);
  // Never one that would have to be waited for: the program has work to enqueue first.
  if (engine_.is_ready()) ahead_ = std::make_unique<Copied>(copy_next());
  return std::move(batch.batch);
}

// Throws nothing: a batch's error is for its turn.
DeviceFeed::Copied DeviceFeed::copy_next() {
  Copied result;
  try {
    auto prepared = engine_.next();
    const at::NoGradGuard no_grad;
    const auto consumer = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    const auto stream = engine_.copy_stream(device_);
    const c10::StreamGuard guard(stream);
    // Let go of under the guard, whatever happens: its memory is kept from the workers until what
    // is on the current stream then is done.
    const auto batch = std::move(prepared);
    result.batch = map_tensors(batch, [&](const at::Tensor& tensor) {
      if (!tensor.is_cpu() || tensor.layout() != at::kStrided) {
        const c10::StreamGuard back(consumer);
        return tensor.to(device_, /*non_blocking=*/true);
      }
      result.copies.push_back(tensor.to(device_, /*non_blocking=*/true));
      return result.copies.back();
    });
    result.is_there.emplace(device_.type());
    result.is_there->record(stream);
  } catch (...) {
    result.batch = {};
    result.error = std::current_exception();
  }
  return result;
}

void DeviceFeed::hand_over(Copied& batch) const {
  // An event makes its device current, and then the one that was: that must be the same.
  const c10::DeviceGuard guard(device_);
  const c10::impl::VirtualGuardImpl device(device_.type());
  const auto consumer = device.getStream(device_);
  batch.is_there->block(consumer);
  // They were allocated on the stream of copies, whose next copy could have their memory as soon as
  // the program lets go of them, while what it enqueued still reads them.
  for (const auto& copy : batch.copies) {
    device.recordDataPtrOnStream(copy.storage().data_ptr(), consumer);
  }
  batch.is_there.reset();
}

}  // namespace lockstep::data::detail
