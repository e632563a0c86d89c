// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/per_group.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>
#include <torch/arg.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// What a `CyclicLR` is told.
struct LOCKSTEP_API CyclicLROptions {
  /// The two rates that are always needed.
  CyclicLROptions(PerGroup base_lr, PerGroup max_lr);
  /// The lowest rate.
  TORCH_ARG(PerGroup, base_lr);
  /// The highest rate.
  TORCH_ARG(PerGroup, max_lr);
  /// Steps from the lowest rate to the highest.
  TORCH_ARG(std::int64_t, step_size_up) = 2000;
  /// Steps back; as many as up.
  TORCH_ARG(std::optional<std::int64_t>, step_size_down) = std::nullopt;
  /// `triangular`; `triangular2`, of half the height after each cycle; `exp_range`, of the height
  /// `gamma` to the power of the step.
  TORCH_ARG(std::string, mode) = "triangular";
  /// See `mode`.
  TORCH_ARG(double, gamma) = 1.0;
  /// Instead of `mode`: the part of the height in a cycle, from 1 on, or after a number of steps.
  TORCH_ARG(std::function<double(double)>, scale_fn) = nullptr;
  /// What `scale_fn` is given: `cycle` or `iterations`.
  TORCH_ARG(std::string, scale_mode) = "cycle";
  /// Whether momentum, or Adam's beta1, falls while the rate rises.
  TORCH_ARG(bool, cycle_momentum) = true;
  /// The lowest momentum.
  TORCH_ARG(PerGroup, base_momentum) = 0.8;
  /// The highest momentum.
  TORCH_ARG(PerGroup, max_momentum) = 0.9;
  /// The step before the first.
  TORCH_ARG(std::int64_t, last_epoch) = -1;
};

/// Between two rates, up and down along lines. `step()` after each batch.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.CyclicLR`; https://arxiv.org/abs/1506.01186.
class LOCKSTEP_API CyclicLR final : public EpochLR {
 public:
  /// Sets the rates to `base_lr`.
  /// Throws: `c10::Error` for options out of range, and for an optimizer without momentum where it
  /// is cycled.
  CyclicLR(const ScheduledOptimizer& optimizer, const CyclicLROptions& options);
  /// With the defaults.
  CyclicLR(const ScheduledOptimizer& optimizer, PerGroup base_lr, PerGroup max_lr,
           std::int64_t step_size_up = 2000);

 private:
  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;
  bool cycles_momentum() const noexcept override { return cycle_momentum_; }
  double scale(double cycle) const;

  std::vector<double> max_lrs_;
  double total_size_;
  double step_ratio_ = 0;
  std::string mode_;
  double gamma_;
  std::function<double(double)> scale_fn_;
  std::string scale_mode_;
  bool cycle_momentum_;
  bool use_beta1_ = false;
  std::vector<double> base_momentums_;
  std::vector<double> max_momentums_;
};

}  // namespace lockstep::optim::lr_scheduler
