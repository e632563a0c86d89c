// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/launch.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "comm/group/captured_groups.h"

namespace lockstep {

NcclLaunch::NcclLaunch(std::shared_ptr<NcclCommunicator> communicator, OperationLimit limit)
    : communicator_(std::move(communicator)), limit_(std::move(limit)) {}

void NcclLaunch::add(NcclTask task) {
  native::DeviceApi& device = *communicator_->services().device;
  const int index = communicator_->device();
  const native::DeviceScope scope(device, index);
  auto start = std::make_unique<native::DeviceEvent>(communicator_->services().device, index);
  const auto stream = device.current_stream(index);
  start->record(stream);
  is_captured_ = is_captured_ || (CapturedGroups::is_open() && device.is_capturing(stream));
  starts_.push_back(std::move(start));
  tasks_.push_back(std::move(task));
}

bool NcclLaunch::try_enqueue() {
  if (in_flight_) return true;
  if (!is_sealed_) return false;
  if (!are_calls_enqueued_) {
    are_calls_enqueued_ = have_checks_passed() && communicator_->poll() && try_enqueue_calls();
    if (!are_calls_enqueued_) return false;
  }
  if (!communicator_->poll()) return false;
  // NCCL has put its kernels into the stream only now.
  std::vector<NcclCall> completions;
  for (NcclTask& task : tasks_) {
    std::move(task.completions.begin(), task.completions.end(), std::back_inserter(completions));
  }
  if (!completions.empty()) communicator_->run(completions);
  in_flight_ = communicator_->record_end(limit_);
  return true;
}

bool NcclLaunch::drop_if_captured() noexcept {
  if (!is_captured_) return false;
  is_dropped_ = !are_calls_enqueued_;
  // What they would copy to the program's tensors was never computed.
  for (NcclTask& task : tasks_) task.completions.clear();
  return is_dropped_;
}

bool NcclLaunch::have_checks_passed() {
  for (NcclTask& task : tasks_) {
    try {
      if (task.check && !task.check->is_passed()) return false;
    } catch (OperationFailure& failure) {
      failure.culprit = task.owner;  // another operation may have called `advance`
      throw;
    }
  }
  return true;
}

bool NcclLaunch::try_enqueue_calls() {
  std::vector<NcclCall> preparations;
  std::vector<NcclCall> calls;
  preparations.emplace_back([this](const NcclCallContext&) {
    for (const auto& start : starts_) start->block(communicator_->stream());
  });
  for (const NcclTask& task : tasks_) {
    preparations.insert(preparations.end(), task.preparations.begin(), task.preparations.end());
    calls.insert(calls.end(), task.calls.begin(), task.calls.end());
  }
  return communicator_->try_enqueue(preparations, calls, limit_);
}

void NcclLaunch::order_current_stream() {
  if (is_dropped_ || communicator_->is_capture_over(*in_flight_)) return;
  native::DeviceApi& device = *communicator_->services().device;
  const native::DeviceScope scope(device, communicator_->device());
  in_flight_->end.block(device.current_stream(communicator_->device()));
  communicator_->note_ordered(*in_flight_);
}

std::string NcclLaunch::describe_missing() {
  if (in_flight_) {
    return "it is enqueued and does not end; with ProcessGroupOptions().check_calls(true) ranks "
           "say who has not come";
  }
  for (NcclTask& task : tasks_) {
    if (task.check && !task.check->is_passed()) return task.check->describe_missing();
  }
  return "NCCL does not get ready: not all ranks have come to it";
}

}  // namespace lockstep
