// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/sending_thread.h"

#include <chrono>
#include <stop_token>
#include <thread>

#include "pipeline/runtime/stage_link.h"

namespace lockstep::pipeline {

SendingThread::SendingThread(StageLink& one, StageLink& other) {
  if (!one.sends_in_calls_alone() && !other.sends_in_calls_alone()) return;
  thread_ = std::jthread([&one, &other](const std::stop_token& stop) {
    constexpr std::chrono::microseconds kInterval{100};
    while (!stop.stop_requested()) {
      one.move_messages();
      other.move_messages();
      std::this_thread::sleep_for(kInterval);
    }
  });
}

}  // namespace lockstep::pipeline
