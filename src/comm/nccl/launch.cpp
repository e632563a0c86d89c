// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/launch.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace lockstep {
namespace {

// The GPU wakes nobody; a small all-reduce takes as long as this.
constexpr std::chrono::microseconds kLaunchPollInterval{20};

void nap(std::chrono::nanoseconds limit) {
  std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(limit, kLaunchPollInterval));
}

}  // namespace

NcclLaunch::NcclLaunch(std::shared_ptr<NcclCommunicator> communicator, const Deadline& deadline,
                       std::string op)
    : communicator_(std::move(communicator)), deadline_(deadline), op_(std::move(op)) {}

void NcclLaunch::add(NcclTask task) {
  native::DeviceApi& device = *communicator_->services().device;
  const int index = communicator_->device();
  const native::DeviceScope scope(device, index);
  auto start = std::make_unique<native::DeviceEvent>(communicator_->services().device, index);
  start->record(device.current_stream(index));
  starts_.push_back(std::move(start));
  tasks_.push_back(std::move(task));
}

bool NcclLaunch::try_enqueue() {
  if (flight_) return true;
  if (!is_sealed_) return false;
  if (!is_given_) {
    is_given_ = have_checks_passed() && communicator_->poll() && try_give();
    if (!is_given_) return false;
  }
  if (!communicator_->poll()) return false;
  // Only now are the kernels in the stream.
  std::vector<NcclCall> completions;
  for (NcclTask& task : tasks_) {
    std::move(task.completions.begin(), task.completions.end(), std::back_inserter(completions));
  }
  if (!completions.empty()) communicator_->run(completions);
  flight_ = communicator_->record_end(deadline_, op_);
  return true;
}

bool NcclLaunch::have_checks_passed() {
  for (NcclTask& task : tasks_) {
    try {
      if (task.check && !task.check->is_passed()) return false;
    } catch (OperationFailure& failure) {
      failure.culprit = task.owner;  // the line may be pushed forward for one behind it
      throw;
    }
  }
  return true;
}

bool NcclLaunch::try_give() {
  std::vector<NcclCall> preparations;
  std::vector<NcclCall> calls;
  preparations.emplace_back([this](const NcclCallContext&) {
    for (const auto& start : starts_) start->block(communicator_->stream());
  });
  for (const NcclTask& task : tasks_) {
    preparations.insert(preparations.end(), task.preparations.begin(), task.preparations.end());
    calls.insert(calls.end(), task.calls.begin(), task.calls.end());
  }
  return communicator_->try_enqueue(preparations, calls, deadline_, op_);
}

void NcclLaunch::order_current_stream() {
  native::DeviceApi& device = *communicator_->services().device;
  const native::DeviceScope scope(device, communicator_->device());
  flight_->end.block(device.current_stream(communicator_->device()));
}

std::string NcclLaunch::describe_missing() {
  if (flight_) {
    return "it is enqueued and does not end; with ProcessGroupOptions().check_calls(true) ranks "
           "say who has not come";
  }
  for (NcclTask& task : tasks_) {
    if (task.check && !task.check->is_passed()) return task.check->describe_missing();
  }
  return "NCCL does not get ready: not all ranks have come to it";
}

void NcclLine::advance() {
  while (!launches.empty() && launches.front()->try_enqueue()) launches.pop_front();
}

bool NcclOperation::try_start(bool) {
  if (!launch_->is_enqueued()) line_->advance();
  return launch_->is_enqueued();
}

bool NcclOperation::try_finish() {
  return launch_->is_enqueued() && launch_->is_done();
}

bool NcclOperation::make_stream_wait() {
  launch_->order_current_stream();
  return true;
}

void NcclOperation::sleep(std::chrono::nanoseconds limit) {
  nap(limit);
}

std::string NcclOperation::describe_missing() const {
  return launch_->describe_missing();
}

void NcclBarrier::sleep(std::chrono::nanoseconds limit) {
  nap(limit);
}

}  // namespace lockstep
