// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

/// @file
/// Schedules that change the rate at some epochs.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// The rate times `gamma` after every `step_size` epochs. (LibTorch's own `torch::optim::StepLR` is
/// one step late.)
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.StepLR`.
class LOCKSTEP_API StepLR final : public EpochLR {
 public:
  /// Throws: `c10::Error` for a `step_size` of 0.
  StepLR(const ScheduledOptimizer& optimizer, std::int64_t step_size, double gamma = 0.1,
         std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;

  std::int64_t step_size_;
  double gamma_;
};

/// The rate times `gamma` at each milestone; twice where a milestone appears twice.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.MultiStepLR`.
class LOCKSTEP_API MultiStepLR final : public EpochLR {
 public:
  /// `milestones`: epochs, in any order.
  MultiStepLR(const ScheduledOptimizer& optimizer, const std::vector<std::int64_t>& milestones,
              double gamma = 0.1, std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  std::optional<std::vector<double>> closed_form_lr() override;
  void visit(StateFields& fields) override;

  std::map<std::int64_t, std::int64_t> milestones_;
  double gamma_;
};

}  // namespace lockstep::optim::lr_scheduler
