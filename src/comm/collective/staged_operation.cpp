// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/staged_operation.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <thread>

namespace lockstep {
namespace {

// A copy takes microseconds to milliseconds, and nothing wakes this rank when it is done.
constexpr std::chrono::microseconds kCopyInterval{20};

// Contiguous as the backend needs it; the elements of a tensor with other strides lie in memory
// order.
at::Tensor staging_for(const at::Tensor& tensor) {
  const auto options = tensor.options().device(c10::kCPU).pinned_memory(tensor.is_cuda());
  return at::empty({tensor.numel()}, options).as_strided(tensor.sizes(), tensor.strides());
}

std::vector<at::Tensor> staging_for(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> staging;
  for (const at::Tensor& tensor : tensors) staging.push_back(staging_for(tensor));
  return staging;
}

}  // namespace

StagedOperation::StagedOperation(Collective call, Mode mode, Make make)
    : call_(std::move(call)), staged_(call_), mode_(mode), make_(std::move(make)) {
  const c10::Device device = call_.device();
  if (!device.is_cpu()) stream_ = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  if (mode_ == Mode::PinnedCopies) stage();
  copied_in_ = copy_all(call_.inputs, staged_.inputs);
}

void StagedOperation::stage() {
  staged_.inputs = staging_for(call_.inputs);
  staged_.outputs = staging_for(call_.outputs);
  // A reduction in place must stay one.
  for (std::size_t i = 0; i < call_.inputs.size(); ++i) {
    for (std::size_t j = 0; j < call_.outputs.size(); ++j) {
      if (call_.inputs[i].is_same(call_.outputs[j])) staged_.outputs[j] = staged_.inputs[i];
    }
  }
}

std::optional<c10::Event> StagedOperation::copy_all(const std::vector<at::Tensor>& sources,
                                                    const std::vector<at::Tensor>& targets) const {
  // A result may be a parameter, or an inference tensor. Autograd has heard of the call already.
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::OptionalStreamGuard guard;
  if (stream_) guard.reset_stream(*stream_);
  for (std::size_t i = 0; i < sources.size() && mode_ == Mode::PinnedCopies; ++i) {
    targets[i].copy_(sources[i], /*non_blocking=*/true);
  }
  if (!stream_) return std::nullopt;
  std::optional<c10::Event> event(std::in_place, stream_->device_type());
  event->record(*stream_);
  return event;
}

bool StagedOperation::is_copied(const std::optional<c10::Event>& event) {
  return !event || event->query();
}

bool StagedOperation::try_start(bool is_oldest) {
  if (!is_copied(copied_in_)) return false;
  if (!operation_) operation_ = make_(staged_);
  return operation_->try_start(is_oldest);
}

bool StagedOperation::try_finish() {
  if (!operation_) return false;
  if (!is_finished_) {
    if (!operation_->try_finish()) return false;
    is_finished_ = true;
    if (mode_ == Mode::PinnedCopies) copied_out_ = copy_all(staged_.outputs, call_.outputs);
  }
  return is_copied(copied_out_);
}

void StagedOperation::sleep(std::chrono::nanoseconds limit) {
  if (operation_ && !is_finished_) return operation_->sleep(limit);
  std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(limit, kCopyInterval));
}

void StagedOperation::check_peers() {
  if (operation_ && !is_finished_) operation_->check_peers();
}

std::string StagedOperation::describe_missing() const {
  if (operation_ && !is_finished_) return operation_->describe_missing();
  return "the stream has not come to it, or copies between the GPU and the CPU are not done";
}

}  // namespace lockstep
