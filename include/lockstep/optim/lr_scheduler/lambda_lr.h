// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstdint>
#include <functional>
#include <vector>

/// @file
/// Schedules by the program's own functions. These are no part of the state: the program that loads
/// it makes the schedule with the same functions.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// A factor for an epoch.
using LRLambda = std::function<double(std::int64_t epoch)>;

/// The base rate times a factor.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.LambdaLR`.
class LOCKSTEP_API LambdaLR final : public EpochLR {
 public:
  /// One function for all groups.
  /// Throws: `c10::Error` for an empty function.
  LambdaLR(const ScheduledOptimizer& optimizer, LRLambda lr_lambda, std::int64_t last_epoch = -1);
  /// One function a group.
  /// Throws: the same, and for another number of functions than groups.
  LambdaLR(const ScheduledOptimizer& optimizer, std::vector<LRLambda> lr_lambda,
           std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;

  std::vector<LRLambda> lr_lambdas_;
};

/// The rate times a factor, in each step.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.MultiplicativeLR`.
class LOCKSTEP_API MultiplicativeLR final : public EpochLR {
 public:
  /// One function for all groups.
  /// Throws: `c10::Error` for an empty function.
  MultiplicativeLR(const ScheduledOptimizer& optimizer, LRLambda lr_lambda,
                   std::int64_t last_epoch = -1);
  /// One function a group.
  /// Throws: the same, and for another number of functions than groups.
  MultiplicativeLR(const ScheduledOptimizer& optimizer, std::vector<LRLambda> lr_lambda,
                   std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;

  std::vector<LRLambda> lr_lambdas_;
};

}  // namespace lockstep::optim::lr_scheduler
