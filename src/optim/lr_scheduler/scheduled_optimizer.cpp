// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/scheduled_optimizer.h>

#include <cstddef>

namespace lockstep::optim::lr_scheduler {

ScheduledOptimizer::ScheduledOptimizer(torch::optim::Optimizer& optimizer)
    : optimizer_(&optimizer), groups_(std::make_shared<std::vector<ScheduleFields>>()) {}

ScheduledOptimizer::ScheduledOptimizer(torch::optim::Optimizer& optimizer,
                                       const std::vector<double>& initial_lr)
    : ScheduledOptimizer(optimizer) {
  auto& all = groups();
  TORCH_CHECK(initial_lr.size() == all.size(), "ScheduledOptimizer: initial_lr has ",
              initial_lr.size(), " values; the optimizer has ", all.size(), " groups");
  for (std::size_t i = 0; i < all.size(); ++i) all[i].initial_lr = initial_lr[i];
}

std::vector<ScheduleFields>& ScheduledOptimizer::groups() const {
  // The program may have added groups.
  groups_->resize(optimizer_->param_groups().size());
  return *groups_;
}

}  // namespace lockstep::optim::lr_scheduler
