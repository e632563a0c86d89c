// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstdint>
#include <optional>
#include <vector>

/// @file
/// Schedules that multiply the rate by a factor in each step, and those that begin with a part of
/// it.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// `factor` times the rate for `total_iters` epochs, and the whole rate then.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.ConstantLR`.
class LOCKSTEP_API ConstantLR final : public EpochLR {
 public:
  /// Throws: `c10::Error` for a `factor` that is not from 0 to 1.
  explicit ConstantLR(const ScheduledOptimizer& optimizer, double factor = 1.0 / 3,
                      std::int64_t total_iters = 5, std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;

  double factor_;
  std::int64_t total_iters_;
};

/// From `start_factor` to `end_factor` times the rate, along a line of `total_iters` epochs.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.LinearLR`.
class LOCKSTEP_API LinearLR final : public EpochLR {
 public:
  /// Throws: `c10::Error` for factors that are not from 0 to 1, and a `start_factor` of 0.
  explicit LinearLR(const ScheduledOptimizer& optimizer, double start_factor = 1.0 / 3,
                    double end_factor = 1.0, std::int64_t total_iters = 5,
                    std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;

  double start_factor_;
  double end_factor_;
  std::int64_t total_iters_;
};

/// The rate times `gamma` in each epoch.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.ExponentialLR`.
class LOCKSTEP_API ExponentialLR final : public EpochLR {
 public:
  /// Any `gamma`.
  ExponentialLR(const ScheduledOptimizer& optimizer, double gamma, std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;

  double gamma_;
};

/// From the rate to 0 in `total_iters` epochs, as a power of what is left.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.PolynomialLR`.
class LOCKSTEP_API PolynomialLR final : public EpochLR {
 public:
  /// Any `power`.
  explicit PolynomialLR(const ScheduledOptimizer& optimizer, std::int64_t total_iters = 5,
                        double power = 1.0, std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;

  std::int64_t total_iters_;
  double power_;
};

}  // namespace lockstep::optim::lr_scheduler
