// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/error.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "parallel/buckets/usage_summary.h"
#include "parallel/ddp/average_writer.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/reducer_context.h"
#include "parallel/ddp/sample_weights.h"
#include "parallel/ddp/value_synchronizer.h"

namespace lockstep {

/// An *iteration* is what all ranks do together for one backward: the all-reduce of every bucket in
/// order, then the usage summary. A rank without data makes an iteration of zeros.
///
/// The reducer begins an iteration, fills the buckets, and has the iteration completed when the
/// outermost backward ends. This class knows whether one is under way, and completes it: it
/// exchanges the summary, writes the averages, and makes other values alike.
/// Owns: the usage summary. Thread-safety: guarded by the reducer's lock.
class ReductionIteration {
 public:
  using Clock = std::chrono::steady_clock;

  /// `buffers` returns the buffers that there are when it is called. Collective: it allocates.
  ReductionIteration(const ReducerContext& context, std::function<NamedTensors()> buffers);

  // --- the iteration under way ---
  [[nodiscard]] bool has_begun() const noexcept { return has_begun_; }
  /// Whether its backward has not ended yet.
  [[nodiscard]] bool is_live() const { return has_begun_ && !backward_.expired(); }
  /// Whether its backward threw.
  [[nodiscard]] bool is_abandoned() const { return has_begun_ && backward_.expired(); }
  [[nodiscard]] Clock::time_point begin() const noexcept { return begin_; }
  /// The factor of this rank's gradients.
  [[nodiscard]] double scale() const noexcept { return weights_.scale(); }
  /// Whether ranks exchange a summary: always, or with a static graph once for each set of
  /// parameters.
  [[nodiscard]] bool has_summary() const;

  /// `backward`: lives as long as what the iteration is for.
  void belong_to(std::weak_ptr<bool> backward) { backward_ = std::move(backward); }
  void note_begin();
  /// The buckets are there. `samples` is empty where this rank has no data.
  /// Collective: in the first iteration, where samples count.
  void prepare(std::optional<std::int64_t> samples);
  /// Tells the other ranks of forwards without parameters that need gradients.
  void tell_idle();
  /// All buckets were launched. Returns whether any rank had data.
  /// Blocks: the calling thread. Collective: all ranks.
  /// Throws: `MismatchError` on all ranks where they do not belong to the same backward.
  [[nodiscard]] bool complete(Clock::time_point end_of_backward);
  /// After an error: waits for the summary, if it is under way. Returns whether it came.
  [[nodiscard]] bool finish_in_flight() noexcept;
  void reset() noexcept { has_begun_ = false; }

  // --- from one iteration to the next ---
  /// A forward begins in which no parameter needs a gradient.
  void note_idle() noexcept { had_idle_ = true; }
  [[nodiscard]] ValueSynchronizer& values() noexcept { return values_; }
  [[nodiscard]] SampleWeights& weights() noexcept { return weights_; }
  /// The first rank that took part with data in the latest iteration.
  [[nodiscard]] int first_active_rank() const noexcept { return first_active_rank_; }
  /// Whether some rank has made an iteration of zeros since this was last asked.
  [[nodiscard]] bool take_had_shadows() noexcept;

 private:
  void launch_summary();
  /// Sets aside what a parameter that is in no bucket has all the same.
  void set_aside_left_over(ReducedParameter& parameter);
  void check_summary();
  void write_averages();
  [[nodiscard]] double factor();
  void note_times(Clock::time_point end_of_backward, Clock::time_point wait_begin,
                  Clock::time_point wait_end);

  ReducerContext context_;
  UsageSummary summary_;
  SampleWeights weights_;
  AverageWriter writer_;
  ValueSynchronizer values_;

  bool has_begun_ = false;
  std::weak_ptr<bool> backward_;  // lives as long as the backward under way
  Clock::time_point begin_;

  bool had_idle_ = false;  // forwards without parameters that need gradients
  int first_active_rank_ = 0;
  bool had_shadows_ = false;
};

}  // namespace lockstep
