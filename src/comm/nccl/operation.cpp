// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/operation.h"

#include <algorithm>
#include <thread>

namespace lockstep {
namespace {

// The GPU wakes no thread, and a small all-reduce takes as long as this.
constexpr std::chrono::microseconds kLaunchPollInterval{20};

void nap(std::chrono::nanoseconds limit) {
  std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(limit, kLaunchPollInterval));
}

}  // namespace

bool NcclOperation::try_start(bool) {
  if (!launch_->is_enqueued()) queue_->advance();
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
