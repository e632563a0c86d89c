// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "concurrency/deadline.h"

namespace lockstep::training {

/// Copies of tensors of devices into CPU memory, each device's on a stream of its own: they begin
/// when what the program has enqueued is done, and run beside what it enqueues next.
///
/// Thread-safety: one thread enqueues; afterwards one may order and another one wait.
/// Owns: a share of all tensors until the copies are known to be there.
class DeviceCopies {
 public:
  DeviceCopies() = default;
  /// Copies that are not there yet keep their tensors for good: a device may still use them.
  ~DeviceCopies();
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  /// `target`: on the CPU, pinned, or the call waits for the device.
  void enqueue(const at::Tensor& source, const at::Tensor& target);
  /// After the last of them.
  void end();
  /// What is enqueued on the current streams from now on runs after the copies, so that the program
  /// may change the sources.
  void order_before_current_streams();
  /// Throws: `c10::Error` when the deadline has passed, and what the device throws.
  /// Blocks: until the copies are there.
  void wait(const Deadline& deadline);

 private:
  [[nodiscard]] bool are_there();

  struct OneDevice {
    c10::Stream stream;
    std::vector<c10::Event> is_there;  // one, after `end`
  };

  std::mutex mutex_;  // guards what follows
  std::map<c10::Device, OneDevice, bool (*)(c10::Device, c10::Device)> devices_{
      [](c10::Device a, c10::Device b) {
        return std::pair(a.type(), a.index()) < std::pair(b.type(), b.index());
      }};
  std::vector<at::Tensor> tensors_;
};

}  // namespace lockstep::training
