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

#include "parallel/buckets/bucket_assignments.h"
#include "parallel/buckets/gradient_bucket.h"

namespace lockstep {

/// The buckets of the current assignment, and their all-reduces in bucket order. Gradients may come
/// in another order on each rank, so their order decides nothing.
///
/// The reducer fills the buckets. This class launches a complete bucket once all before it are
/// launched, notes when buckets are reduced, and waits for them. Owns: the buckets, and the
/// communication hook that takes the place of their all-reduce.
/// Thread-safety: guarded by the reducer's lock.
class BucketQueue {
 public:
  using Clock = std::chrono::steady_clock;

  /// `parameters`: all parameters, for communication hooks. The arguments outlive this.
  BucketQueue(ProcessGroup& group, BucketAssignments& assignments,
              const std::vector<at::Tensor>& parameters);

  // --- between iterations ---
  void clear() noexcept { buckets_.clear(); }
  void set_buckets(std::vector<std::unique_ptr<GradientBucket>> buckets) {
    buckets_ = std::move(buckets);
  }
  void set_hook(CommunicationHook hook) { hook_ = std::move(hook); }
  /// With a hook, all buckets have to be `FlatBucket`s.
  [[nodiscard]] bool has_hook() const noexcept { return hook_ != nullptr; }
  /// Moves gradients that somebody still holds out of the buckets, since others are going to have
  /// their memory. Throws: where gradients could not be moved.
  void vacate();
  /// Does the same, but lets gradients that could not be moved keep the group's memory.
  void vacate_if_possible() noexcept;

  // --- within a iteration ---
  [[nodiscard]] std::size_t size() const noexcept { return buckets_.size(); }
  [[nodiscard]] GradientBucket& at(std::size_t bucket) { return *buckets_[bucket]; }
  /// Launches every complete bucket that is next in order.
  /// Throws: `MismatchError` that says what this rank has frozen.
  void launch_complete();
  /// Notes which buckets have been reduced meanwhile.
  void note_reduced();
  /// Blocks: until all are reduced.
  void wait();
  void multiply(double factor);
  /// Blocks: until all buckets that were launched are reduced.
  void wait_for_launched();
  /// Does the same after an error, and returns whether no bucket had one.
  [[nodiscard]] bool finish_in_flight() noexcept;
  /// Empties the buckets for the next iteration.
  void reset() noexcept;

  [[nodiscard]] Clock::time_point first_launch() const noexcept { return first_launch_; }
  [[nodiscard]] std::vector<std::size_t> bytes() const;
  [[nodiscard]] std::size_t copied_bytes() const;

 private:
  void launch(GradientBucket& bucket);

  ProcessGroup& group_;
  BucketAssignments& assignments_;
  const std::vector<at::Tensor>& parameters_;
  CommunicationHook hook_;
  std::vector<std::unique_ptr<GradientBucket>> buckets_;
  std::size_t launched_ = 0;  // how many, in bucket order
  std::size_t reduced_ = 0;   // how many of those, as far as is known
  Clock::time_point first_launch_, last_reduced_;
};

}  // namespace lockstep
