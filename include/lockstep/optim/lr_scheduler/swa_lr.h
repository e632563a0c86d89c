// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/per_group.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// From any rate to the constant one of stochastic weight averaging, in `anneal_epochs`.
///
/// Thread-safety: none.
/// Source: `torch.optim.swa_utils.SWALR`.
class LOCKSTEP_API SWALR final : public EpochLR {
 public:
  /// `anneal_strategy`: `cos` or `linear`.
  /// Throws: `c10::Error` for another strategy, and `anneal_epochs` below 0.
  SWALR(const ScheduledOptimizer& optimizer, const PerGroup& swa_lr,
        std::int64_t anneal_epochs = 10, std::string anneal_strategy = "cos",
        std::int64_t last_epoch = -1);

 private:
  std::vector<double> get_lr() override;
  void visit(StateFields& fields) override;
  void check() const override;
  double annealed(std::int64_t step) const;

  std::int64_t anneal_epochs_;
  std::string anneal_strategy_;
};

}  // namespace lockstep::optim::lr_scheduler
