// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/optim/optimizer.h>

#include <memory>
#include <optional>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// What Python's schedules keep in a parameter group of the optimizer, beside the options.
/// LibTorch's groups have no room for it.
struct LOCKSTEP_API ScheduleFields {
  std::optional<double> initial_lr;     ///< the base rate, from the first schedule on
  std::optional<double> max_lr;         ///< of `OneCycleLR`
  std::optional<double> min_lr;         ///< of `OneCycleLR`
  std::optional<double> max_momentum;   ///< of `OneCycleLR` and `CyclicLR`
  std::optional<double> base_momentum;  ///< of `OneCycleLR` and `CyclicLR`
  std::optional<double> swa_lr;         ///< of `SWALR`
};

/// An optimizer, and what its schedules know about its groups together. Copies share that.
///
/// Each schedule takes one, and an optimizer turns into one by itself:
///
///     CosineAnnealingLR schedule(optimizer, 100);
///
/// A schedule made like that takes the optimizer's present rates as base rates. In Python, a second
/// schedule of an optimizer keeps the base rates of the first one. Give both of them the same
/// object for that:
///
///     ScheduledOptimizer scheduled(optimizer);
///     LinearLR warmup(scheduled, 0.1, 1.0, 5);      // the rate is a tenth now
///     CosineAnnealingLR cosine(scheduled, 100);     // its base rate is the whole one
///
/// Thread-safety: none; as the optimizer.
/// Owns: what it says about the groups. The optimizer outlives it, and stays where it is.
class LOCKSTEP_API ScheduledOptimizer {
 public:
  /// Nothing is known about the groups yet.
  ScheduledOptimizer(torch::optim::Optimizer& optimizer);  // NOLINT: implicit by design
  /// The base rates of the groups, for schedules that begin with a `last_epoch` of 0 or more.
  /// Throws: `c10::Error` for another number of rates than groups.
  ScheduledOptimizer(torch::optim::Optimizer& optimizer, const std::vector<double>& initial_lr);

  /// As it was given.
  [[nodiscard]] torch::optim::Optimizer& optimizer() const noexcept { return *optimizer_; }
  /// One element for each group that the optimizer has now.
  [[nodiscard]] std::vector<ScheduleFields>& groups() const;
  /// Whether both are copies of one.
  [[nodiscard]] bool shares_with(const ScheduledOptimizer& other) const noexcept {
    return groups_ == other.groups_;
  }

 private:
  torch::optim::Optimizer* optimizer_;
  std::shared_ptr<std::vector<ScheduleFields>> groups_;
};

}  // namespace lockstep::optim::lr_scheduler
