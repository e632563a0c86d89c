// SPDX-License-Identifier: BSD-3-Clause
// What a TrainingState refuses of communication hooks, with what the compiler must say.
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/training/training_state.h>

namespace {

// clang-format off
void refused(lockstep::training::TrainingState& state, lockstep::hooks::PowerSgd& hook) {
  state.add("hook", hook);  // refused: TrainingState::add: a communication hook has a state of each rank; write add_of_rank(name, hook)
}

}  // namespace
