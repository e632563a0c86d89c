// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"
#include "options.h"
#include "text.h"

#include <lockstep/lockstep.h>
#include <lockstep/optim/averaged_model.h>
#include <lockstep/training/run_log.h>
#include <lockstep/training/tensorboard.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace example {

/// Tells how training goes: now and then the losses, the speed, and what the model writes. Rank 0
/// prints.
class Report {
 public:
  using Clock = std::chrono::steady_clock;

  /// What is measured is `net`, with the weights of `average` where there is one. All arguments
  /// outlive this. The run goes on after `step` steps.
  Report(const Options& options, Gpt& net, lockstep::optim::AveragedModel* average, Loader& windows,
         c10::Device device, lockstep::ProcessGroup& group, int64_t step);

  /// A step has begun.
  void begin_step() { step_start_ = Clock::now(); }
  /// Step `step`, counted from 1, is done; `loss` is this rank's. Prints after every so many steps,
  /// and after the last one. Collective.
  void end_step(int64_t step, double loss);

  /// Of the newest report; measured now where there was none. Collective.
  [[nodiscard]] double validation_loss();
  /// Writes what is measured to a file.
  void save(const std::string& path);
  /// Of all ranks, without the time of reports.
  [[nodiscard]] double tokens_per_second() const;

 private:
  void measure();
  void print(int64_t step, double training_loss);
  [[nodiscard]] std::string sample(int64_t step);

  const Options& options_;
  Gpt& net_;
  lockstep::optim::AveragedModel* average_;
  Loader& windows_;
  c10::Device device_;
  lockstep::ProcessGroup& group_;
  std::optional<lockstep::training::TensorBoard> board_;
  std::optional<lockstep::training::RunLog> log_;
  Clock::time_point step_start_;
  double seconds_ = 0;  // in steps
  double losses_ = 0;   // since the report before
  int64_t steps_ = 0;   // likewise
  int64_t tokens_ = 0;  // of all ranks, in all steps
  std::optional<double> validation_loss_;
};

}  // namespace example
