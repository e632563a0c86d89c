// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/bucket_tuner.h"

namespace lockstep {

/// Watches when gradients are ready and buckets reduced, and proposes to rebuild the buckets: after
/// the first iteration by the order in which gradients came, after `tune_after` iterations by the
/// times.
///
/// Ranks measure different orders and times, so they agree before they propose: all get the same
/// proposal. Thread-safety: guarded by the reducer's lock.
class BucketRebuilder {
 public:
  struct Settings {
    std::vector<std::size_t> caps;  ///< as `assign_buckets`
    bool learns_order = true;       ///< whether the order of gradients is used
    std::size_t tune_after = 0;     ///< iterations; 0: never
  };
  struct Proposal {
    std::vector<BucketSpec> buckets;
    std::string reason;
  };
  using Clock = std::chrono::steady_clock;

  BucketRebuilder(std::vector<GradientShape> shapes, Settings settings);

  /// Goes on where another one was after so many iterations. `order`: as of `order()`.
  void go_on(std::size_t iterations, std::vector<std::size_t> order) {
    iterations_ = iterations;
    order_ = std::move(order);
  }
  [[nodiscard]] std::size_t iterations() const noexcept { return iterations_; }
  /// In which the buckets in use, or those proposed last, were filled.
  [[nodiscard]] const std::vector<std::size_t>& order() const noexcept { return order_; }
  [[nodiscard]] const std::vector<std::size_t>& caps() const noexcept { return settings_.caps; }

  /// The buckets to begin with.
  [[nodiscard]] Proposal first() const;

  void begin_iteration();
  /// The last gradient of a parameter is there.
  void note_ready(std::size_t parameter);
  /// A bucket has been reduced; `begin`: when its reduction could begin.
  void note_reduced(std::size_t bytes, Clock::time_point begin, Clock::time_point end);
  [[nodiscard]] bool is_measuring() const noexcept { return is_measuring_; }

  /// Ends an iteration, the same one on all ranks. `leader`: a rank that had data.
  /// Blocks: the caller, in those iterations after which buckets may be proposed.
  /// Collective: in those iterations.
  [[nodiscard]] std::optional<Proposal> end_iteration(ProcessGroup& group, int leader);

 private:
  [[nodiscard]] std::vector<std::size_t> agree_on_order(ProcessGroup& group, int leader) const;
  [[nodiscard]] Proposal tune(ProcessGroup& group);

  std::vector<GradientShape> shapes_;
  Settings settings_;
  std::vector<std::size_t> order_;     // in which the buckets in use were filled
  std::vector<std::size_t> arrivals_;  // in this iteration
  std::vector<double> ready_;          // sums over iterations
  std::vector<double> ready_iterations_;
  CostSums costs_;
  std::size_t iterations_ = 0;
  bool is_measuring_ = false;
  Clock::time_point begin_;
};

}  // namespace lockstep
