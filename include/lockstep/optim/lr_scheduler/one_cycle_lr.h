// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/per_group.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>
#include <torch/arg.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// What a `OneCycleLR` is told. It needs `total_steps`, or `epochs` and `steps_per_epoch`.
struct LOCKSTEP_API OneCycleLROptions {
  /// The rate that is always needed.
  explicit OneCycleLROptions(PerGroup max_lr);
  /// The highest rate.
  TORCH_ARG(PerGroup, max_lr);
  /// Steps of the whole cycle.
  TORCH_ARG(std::optional<std::int64_t>, total_steps) = std::nullopt;
  /// With `steps_per_epoch`, instead of `total_steps`.
  TORCH_ARG(std::optional<std::int64_t>, epochs) = std::nullopt;
  /// With `epochs`, instead of `total_steps`.
  TORCH_ARG(std::optional<std::int64_t>, steps_per_epoch) = std::nullopt;
  /// The part of the steps in which the rate rises.
  TORCH_ARG(double, pct_start) = 0.3;
  /// How the rate goes from one value to the next: `cos` or `linear`.
  TORCH_ARG(std::string, anneal_strategy) = "cos";
  /// Whether momentum, or Adam's beta1, falls while the rate rises.
  TORCH_ARG(bool, cycle_momentum) = true;
  /// The lowest momentum.
  TORCH_ARG(PerGroup, base_momentum) = 0.85;
  /// The highest momentum.
  TORCH_ARG(PerGroup, max_momentum) = 0.95;
  /// The first rate is `max_lr` divided by this.
  TORCH_ARG(double, div_factor) = 25.0;
  /// The last rate is the first divided by this.
  TORCH_ARG(double, final_div_factor) = 1e4;
  /// Whether the rate falls to the first one in as many steps as it rose, before it falls to the
  /// last.
  TORCH_ARG(bool, three_phase) = false;
  /// The step before the first.
  TORCH_ARG(std::int64_t, last_epoch) = -1;
};

/// Up to the highest rate and down far below the first one, once. `step()` after each batch.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.OneCycleLR`; https://arxiv.org/abs/1708.07120.
class LOCKSTEP_API OneCycleLR final : public EpochLR {
 public:
  /// Throws: `c10::Error` for options out of range, and for an optimizer without momentum where it
  /// is cycled. `step()` throws after more than `total_steps`.
  OneCycleLR(const ScheduledOptimizer& optimizer, const OneCycleLROptions& options);
  /// With the defaults.
  OneCycleLR(const ScheduledOptimizer& optimizer, PerGroup max_lr, std::int64_t total_steps);

 private:
  /// The names are those of `ScheduleFields`.
  struct Phase {
    double end_step = 0;
    std::string start_lr;
    std::string end_lr;
    std::string start_momentum;
    std::string end_momentum;
  };
  static constexpr std::int64_t kMaxPhases = 3;

  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;
  bool cycles_momentum() const noexcept override { return cycle_momentum_; }
  void make_phases(const OneCycleLROptions& options);
  void cycle_groups(const OneCycleLROptions& options);
  double anneal(double start, double end, double part) const;

  std::int64_t total_steps_;
  std::array<Phase, kMaxPhases> phases_;
  std::int64_t phase_count_ = 2;
  std::string anneal_strategy_;
  bool cycle_momentum_;
  bool use_beta1_ = false;
};

}  // namespace lockstep::optim::lr_scheduler
