// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstdint>
#include <optional>
#include <vector>

/// @file
/// Schedules along a cosine.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// From the rate to `eta_min` along half a cosine of `T_max` epochs, and back in as many.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.CosineAnnealingLR`; https://arxiv.org/abs/1608.03983.
class LOCKSTEP_API CosineAnnealingLR final : public EpochLR {
 public:
  /// Throws: `c10::Error` for a `T_max` of 0.
  CosineAnnealingLR(const ScheduledOptimizer& optimizer, std::int64_t T_max, double eta_min = 0.0,
                    std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;

  std::int64_t t_max_;
  double eta_min_;
};

/// The same fall to `eta_min`, begun again after `T_0` epochs, then after `T_mult` times as many as
/// before.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.
class LOCKSTEP_API CosineAnnealingWarmRestarts final : public EpochLR {
 public:
  /// Throws: `c10::Error` for a `T_0` or `T_mult` below 1.
  CosineAnnealingWarmRestarts(const ScheduledOptimizer& optimizer, std::int64_t T_0,
                              std::int64_t T_mult = 1, double eta_min = 0.0,
                              std::int64_t last_epoch = -1);

  void step() override;
  /// The rates of any epoch, also of a part of one: `epoch + batch / batches`.
  /// Throws: `c10::Error` for one below 0, or of no number.
  void step(double epoch);

 private:
  /// Where in which cycle an epoch is.
  struct Place {
    double t_cur = 0;
    std::int64_t t_i = 1;
  };
  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;
  void go_to(Place place, double epoch);

  std::int64_t t_0_;
  std::int64_t t_mult_;
  double eta_min_;
  Place place_;
};

}  // namespace lockstep::optim::lr_scheduler
