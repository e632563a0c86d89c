// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/buckets/bucket_assignment.h"
#include "parallel/buckets/gradient_bucket.h"

namespace lockstep {

/// The buckets of the plan in use, which are launched in their order, whatever order gradients come
/// in: that could differ between ranks.
///
/// The reducer fills buckets; this one launches each that is complete once all before it are,
/// notes when they are reduced, and waits for them. Owns: the buckets, and the communication hook
/// that takes the place of their all-reduce. Thread-safety: guarded by the reducer's lock.
class BucketQueue {
 public:
  using Clock = std::chrono::steady_clock;

  /// `parameters`: all of them, for communication hooks. All three outlive this.
  BucketQueue(ProcessGroup& group, BucketAssignment& assignment,
              const std::vector<at::Tensor>& parameters);

  // --- between cycles ---
  void clear() noexcept { buckets_.clear(); }
  void fill(std::vector<std::unique_ptr<GradientBucket>> buckets) { buckets_ = std::move(buckets); }
  void set_hook(CommunicationHook hook) { hook_ = std::move(hook); }
  /// With one, buckets have to be `FlatBucket`s.
  [[nodiscard]] bool has_hook() const noexcept { return hook_ != nullptr; }
  /// Other buckets are going to have this memory. Throws: where gradients could not be moved.
  void vacate();
  /// What could not be moved keeps the group's memory.
  void vacate_if_possible() noexcept;

  // --- within a cycle ---
  [[nodiscard]] GradientBucket& at(std::size_t bucket) { return *buckets_[bucket]; }
  /// Throws: `MismatchError` that says what this rank has frozen.
  void launch_complete();
  /// Looks which buckets have been reduced meanwhile, in their order.
  void note_reduced();
  /// Blocks: until all are reduced.
  void wait();
  void multiply(double factor);
  /// Blocks: until all that were launched are reduced, as far as they were.
  void wait_for_launched();
  /// The same after an error. Returns whether there was none.
  [[nodiscard]] bool finish_in_flight() noexcept;
  /// Ready for the next cycle.
  void reset() noexcept;

  [[nodiscard]] Clock::time_point first_launch() const noexcept { return first_launch_; }
  [[nodiscard]] std::vector<std::size_t> bytes() const;
  [[nodiscard]] std::size_t copied_bytes() const;

 private:
  void launch(GradientBucket& bucket);

  ProcessGroup& group_;
  BucketAssignment& assignment_;
  const std::vector<at::Tensor>& parameters_;
  CommunicationHook hook_;
  std::vector<std::unique_ptr<GradientBucket>> buckets_;
  std::size_t launched_ = 0;  // in their order
  std::size_t reduced_ = 0;   // of these, as far as is known
  Clock::time_point first_launch_, last_reduced_;
};

}  // namespace lockstep
