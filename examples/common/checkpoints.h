// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace example {

/// What the program returns to the shell when a signal has asked it to stop and it has saved: start
/// it again with --resume. (EX_TEMPFAIL of sysexits.h.)
constexpr int kStoppedExitCode = 75;

/// What --checkpoints, --checkpoint-every and --resume say.
struct CheckpointSettings {
  std::string folder;        // empty: none are saved
  std::int64_t every = 100;  // steps
  bool resume = false;
};

/// Saves a run now and then, where the settings name a folder, and goes on with one.
class Checkpoints {
 public:
  /// Collective.
  Checkpoints(const CheckpointSettings& settings, std::shared_ptr<lockstep::ProcessGroup> group);

  /// What is saved. The program adds its parts.
  [[nodiscard]] lockstep::training::TrainingState& state() { return state_; }

  /// With --resume: loads the newest checkpoint, and says so. Whether there was one. Collective.
  bool resume();
  /// After each step. Whether a signal has asked to stop: then the run has been saved. Collective.
  [[nodiscard]] bool after_step(std::int64_t step);
  /// Waits until all that was begun is on the disk.
  void finish();

 private:
  std::shared_ptr<lockstep::ProcessGroup> group_;
  bool resume_;
  lockstep::training::TrainingState state_;
  std::optional<lockstep::training::Checkpointer> checkpointer_;
  std::optional<lockstep::StopRequest> stop_;
};

}  // namespace example
