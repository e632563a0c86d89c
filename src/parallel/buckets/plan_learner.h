// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/bucket_planner.h"
#include "parallel/buckets/bucket_tuner.h"

namespace lockstep {

/// Watches when gradients and buckets are ready, and proposes a better division into buckets: after
/// the first cycle, by the order in which gradients came; after `tune_after` cycles, by the times.
///
/// What ranks measured differs, so they agree before they propose: all get the same proposal.
/// Thread-safety: guarded by the reducer's lock.
class PlanLearner {
 public:
  struct Settings {
    std::vector<std::size_t> caps;  ///< as `plan_buckets`
    bool learns_order = true;
    std::size_t tune_after = 0;  ///< cycles; 0: never
  };
  struct Proposal {
    std::vector<BucketPlan> plans;
    std::string reason;
  };
  using Clock = std::chrono::steady_clock;

  PlanLearner(std::vector<GradientShape> shapes, Settings settings);

  /// The plan to begin with.
  [[nodiscard]] Proposal first() const;

  void begin_cycle();
  /// The last gradient of a parameter is there.
  void note_ready(std::size_t parameter);
  /// A bucket has been reduced; `begin`: when that could begin.
  void note_reduced(std::size_t bytes, Clock::time_point begin, Clock::time_point end);
  [[nodiscard]] bool is_measuring() const noexcept { return is_measuring_; }

  /// After a cycle, on all ranks in the same one. `leader`: a rank that had data. Collective in
  /// those cycles in which something is learned. Blocks.
  [[nodiscard]] std::optional<Proposal> end_cycle(ProcessGroup& group, int leader);

 private:
  [[nodiscard]] std::vector<std::size_t> agree_on_order(ProcessGroup& group, int leader) const;
  [[nodiscard]] Proposal tune(ProcessGroup& group);

  std::vector<GradientShape> shapes_;
  Settings settings_;
  std::vector<std::size_t> order_;     // of the plan
  std::vector<std::size_t> arrivals_;  // in this cycle
  std::vector<double> ready_;          // sums over cycles
  std::vector<double> ready_cycles_;
  CostSums costs_;
  std::size_t cycles_ = 0;
  bool is_measuring_ = false;
  Clock::time_point begin_;
};

}  // namespace lockstep
