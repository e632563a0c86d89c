// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"
#include "options.h"
#include "text.h"

#include <lockstep/lockstep.h>

#include <chrono>
#include <cstdint>
#include <optional>

namespace example {

/// Tells how training goes: now and then the losses, the speed, and what the model writes. Rank 0
/// prints.
class Report {
 public:
  using Clock = std::chrono::steady_clock;

  /// `net` is what is measured. All arguments outlive this.
  Report(const Options& options, Gpt& net, Loader& windows, c10::Device device,
         lockstep::ProcessGroup& group)
      : options_(options), net_(net), windows_(windows), device_(device), group_(group) {}

  /// A step has begun.
  void begin_step() { step_start_ = Clock::now(); }
  /// Step `step`, counted from 1, is done; `loss` is this rank's. Prints after every so many steps,
  /// and after the last one. Collective.
  void end_step(int64_t step, double loss);

  /// Of the newest report; measured now where there was none. Collective.
  [[nodiscard]] double validation_loss();
  /// Of all ranks, without the time of reports.
  [[nodiscard]] double tokens_per_second() const;

 private:
  void print(int64_t step, double training_loss);
  void print_sample(int64_t step);

  const Options& options_;
  Gpt& net_;
  Loader& windows_;
  c10::Device device_;
  lockstep::ProcessGroup& group_;
  Clock::time_point step_start_;
  double seconds_ = 0;  // in steps
  double losses_ = 0;   // since the report before
  int64_t steps_ = 0;   // likewise
  int64_t tokens_ = 0;  // of all ranks, in all steps
  std::optional<double> validation_loss_;
};

}  // namespace example
