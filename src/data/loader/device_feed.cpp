// SPDX-License-Identifier: BSD-3-Clause
// Behind the last step of a sample's path, where the program trains on a GPU: batches are copied
// there on a stream of their own.
#include <ATen/DeviceAccelerator.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
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
  std::vector<at::Tensor> copies;      // in memory of the stream of copies
  std::vector<at::Tensor> placed;      // in memory of `home`, the consumer's stream
  std::optional<c10::Stream> home;     // of `placed`, if there are any
  std::optional<c10::Event> is_there;  // after all of them
  std::exception_ptr error;
  native::OwningProcess owner{};

  /// The batch is not handed over: its memory must not serve the consumer before the copies, which
  /// are on `stream`, are done.
  void let_go(const c10::Stream& stream) noexcept;
};

void DeviceFeed::Copied::let_go(const c10::Stream& stream) noexcept {
  if (!home) return;
  try {
    c10::Event end(stream.device_type());
    end.record(stream);
    end.block(*home);
  } catch (...) {  // a leak is better than wrong data
    native::leave_alone(std::move(placed));
  }
}

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
  ahead_->let_go(engine_.copy_stream(device_));
  ahead_.reset();
}

bool DeviceFeed::has_next() {
  return ahead_ != nullptr || engine_.has_next();
}

SampleTree DeviceFeed::next() {
  if (!copies_) return engine_.next();
  const auto taken = std::exchange(ahead_, nullptr);
  Copied batch = taken ? std::move(*taken) : copy_next(/*is_ahead=*/false);
  engine_.mark_received();
  if (batch.error) std::rethrow_exception(batch.error);
  hand_over(batch);
  // Never one that would have to be waited for: the program has work to enqueue first.
  if (engine_.is_ready()) ahead_ = std::make_unique<Copied>(copy_next(/*is_ahead=*/true));
  return std::move(batch.batch);
}

// Throws nothing: a batch's error is for its turn.
DeviceFeed::Copied DeviceFeed::copy_next(bool is_ahead) {
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
      if (is_ahead && tensor.is_pinned()) return place(tensor, consumer, stream, result);
      // The program waits for this batch, or the calling thread for the copy of memory that is not
      // pinned. Such a copy must not wait for the step that the consumer's stream runs, as one into
      // the consumer's memory would.
      result.copies.push_back(tensor.to(device_, /*non_blocking=*/true));
      return result.copies.back();
    });
    result.is_there.emplace(device_.type());
    result.is_there->record(stream);
  } catch (...) {
    result.error = std::current_exception();
    if (result.home) result.let_go(engine_.copy_stream(device_));
    result.batch = {};
    result.placed.clear();
  }
  return result;
}

at::Tensor DeviceFeed::place(const at::Tensor& tensor, const c10::Stream& consumer,
                             const c10::Stream& stream, Copied& result) const {
  at::Tensor target;
  {
    // In the consumer's memory, which serves it again as soon as the program lets go of the batch.
    const c10::StreamGuard back(consumer);
    target = at::empty_like(tensor, tensor.options().device(device_));
  }
  if (!result.home) {
    // What the consumer has been given so far may still use that memory.
    c10::Event is_free(device_.type());
    is_free.record(consumer);
    is_free.block(stream);
    result.home = consumer;
  }
  target.copy_(tensor, /*non_blocking=*/true);
  result.placed.push_back(target);
  return target;
}

void DeviceFeed::hand_over(Copied& batch) const {
  // An event makes its device current, and then the one that was: that must be the same.
  const c10::DeviceGuard guard(device_);
  const c10::impl::VirtualGuardImpl device(device_.type());
  const auto consumer = device.getStream(device_);
  batch.is_there->block(consumer);
  // They were allocated on another stream, whose next work could have their memory as soon as the
  // program lets go of them, while what it enqueued still reads them.
  const auto record = [&](const std::vector<at::Tensor>& tensors) {
    for (const auto& tensor : tensors) {
      device.recordDataPtrOnStream(tensor.storage().data_ptr(), consumer);
    }
  };
  record(batch.copies);
  if (batch.home && *batch.home != consumer) record(batch.placed);
  batch.is_there.reset();
}

}  // namespace lockstep::data::detail
