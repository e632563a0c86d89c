// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/plan.h>

#include "pipeline/schedule/plan_steps.h"
#include "pipeline/schedule/rendezvous.h"
#include "pipeline/schedule/runnable.h"

namespace lockstep::pipeline {

void Plan::check() const {
  require_runnable(*this);
  require_rendezvous(*this, steps_of_all_ranks(*this));
}

}  // namespace lockstep::pipeline
