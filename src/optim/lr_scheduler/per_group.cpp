// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/per_group.h>

namespace lockstep::optim::lr_scheduler {

std::vector<double> PerGroup::for_groups(const char* name, std::size_t groups) const {
  if (!is_list_) return std::vector<double>(groups, values_.front());
  TORCH_CHECK(values_.size() == groups, name,
              " must have the same length as the parameter groups: it "
              "has ",
              values_.size(), " values, and the optimizer has ", groups, " groups");
  return values_;
}

}  // namespace lockstep::optim::lr_scheduler
