// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/decay_groups.h>

#include <set>

namespace lockstep::optim {

DecayGroups no_decay_groups(const torch::nn::Module& module, double weight_decay) {
  TORCH_CHECK(weight_decay >= 0, "no_decay_groups: weight_decay is ", weight_decay,
              "; expected 0 or more");
  DecayGroups groups;
  groups.weight_decay = weight_decay;
  std::set<const void*> seen;
  for (const auto& parameter : module.parameters()) {
    if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
    (parameter.dim() > 1 ? groups.decayed : groups.not_decayed).push_back(parameter);
  }
  return groups;
}

}  // namespace lockstep::optim
