// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reduced_parameter.h"

namespace lockstep {

bool ReducedParameter::is_given_by_another(const GradientListener& than) const {
  return listeners && listeners->is_given_by_another(than);
}

void ReducedParameter::set_aside() {
  at::Tensor& gradient = tensor.mutable_grad();
  if (!aside.defined()) {
    aside = gradient;
  } else if (aside.layout() != at::kStrided && gradient.layout() == at::kStrided) {
    aside = aside.add(gradient.to_sparse(aside.sparse_dim()));
  } else {
    aside = aside.add(gradient);
  }
  gradient.reset();
}

void ReducedParameter::reset() noexcept {
  count = 0;
  is_sparse = is_late = is_used = is_shared = false;
  aside.reset();
  kept.reset();
  late.reset();
}

}  // namespace lockstep
