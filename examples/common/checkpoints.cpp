// SPDX-License-Identifier: BSD-3-Clause
#include "checkpoints.h"

#include <iostream>
#include <utility>

namespace example {

using lockstep::training::CheckpointerOptions;

Checkpoints::Checkpoints(const CheckpointSettings& settings,
                         std::shared_ptr<lockstep::ProcessGroup> group)
    : group_(std::move(group)), resume_(settings.resume) {
  if (settings.folder.empty()) return;
  checkpointer_.emplace(group_, settings.folder, CheckpointerOptions().every_steps(settings.every));
  stop_.emplace(*group_);
}

bool Checkpoints::resume() {
  if (!resume_) return false;
  const auto found = checkpointer_->load_latest(state_);
  if (group_->rank() == 0) {
    if (found) {
      std::cout << "resumed at step " << found->step << std::endl;
    } else {
      std::cout << "there is no checkpoint yet: begins with step 0" << std::endl;
    }
  }
  return found.has_value();
}

bool Checkpoints::after_step(std::int64_t step) {
  if (!checkpointer_) return false;
  const bool is_saved = checkpointer_->after_step(state_, step);
  if (!stop_->requested()) return false;
  if (!is_saved) checkpointer_->save(state_, step);
  checkpointer_->wait();
  if (group_->rank() == 0) {
    std::cout << "stopped after step " << step << ", as a signal asked: --resume goes on there"
              << std::endl;
  }
  return true;
}

void Checkpoints::finish() {
  if (checkpointer_) checkpointer_->wait();
}

}  // namespace example
