// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/training/trace_span.h>
#include <torch/arg.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace lockstep {
class ProcessGroup;
}

namespace lockstep::training {

/// What a `Profiler` is told. The schedule is that of `torch.profiler.schedule`: after `skip_first`
/// steps, cycles of `wait` steps without profiling, `warmup` steps and `active` steps that are
/// recorded.
struct ProfilerOptions {
  /// Steps of a cycle without profiling, 0 or more.
  TORCH_ARG(std::int64_t, wait) = 1;
  /// Steps for which the profiler prepares itself, 0 or more. Without any, the first recorded step
  /// has the costs of the start in it.
  TORCH_ARG(std::int64_t, warmup) = 1;
  /// Steps that are recorded, 1 or more. A trace has some hundred bytes for each operator, which
  /// are in memory until they are saved: 3 steps show more than 300.
  TORCH_ARG(std::int64_t, active) = 3;
  /// How many cycles; 0: until the profiler ends.
  TORCH_ARG(std::int64_t, repeat) = 1;
  /// Steps before the first cycle, 0 or more.
  TORCH_ARG(std::int64_t, skip_first) = 0;
  /// Whether the first cycle has no `wait`.
  TORCH_ARG(bool, skip_first_wait) = false;
  /// Whether there are no cycles: steps are recorded after a request only.
  TORCH_ARG(bool, only_on_request) = false;
  /// Whether shapes and dtypes of operators' inputs are recorded. This costs time in each operator.
  TORCH_ARG(bool, shapes) = false;
  /// Whether allocations are recorded.
  TORCH_ARG(bool, memory) = false;
};

/// What a profiler does during a step.
enum class ProfilerAction {
  None,           ///< nothing
  Warmup,         ///< prepares itself
  Record,         ///< records
  RecordAndSave,  ///< records, and saves when the step has ended
};

/// What the cycles of these options have for a step, counted from 0.
/// Thread-safety: any thread.
/// Throws: `c10::Error` for options out of range and for a negative step.
/// Source: torch.profiler.schedule.
[[nodiscard]] LOCKSTEP_API ProfilerAction scheduled_action(const ProfilerOptions& options,
                                                           std::int64_t step);

/// Records some steps with LibTorch's profiler (Kineto), and saves them as one file a rank in
/// Chrome's trace format, which Perfetto, chrome://tracing and the tools for Python's traces read.
///
///     lockstep::training::Profiler profiler(group, "trace");
///     for (...) {
///       train_step();
///       profiler.step();
///     }
///
/// The trace of a rank whose first recorded step is 2 is `trace/rank0.step2.json`; an older one of
/// that name is replaced. It has the operators and `Range`s of the thread that called, those of
/// autograd's threads, kernels where there is a GPU, an annotation `ProfilerStep#n` for each step,
/// and `distributedInfo`. What is added by `add` is in rows of its own.
///
/// A running job records on request: when somebody touches the file `profile.now` in the folder, or
/// the program calls `request`. The steps that follow are `warmup` and `active` ones.
///
/// While nothing is recorded, a step costs a look at the clock and, once a second, at that file.
/// LibTorch itself may write a line to stderr when it begins to record without a GPU's driver.
///
/// Ranks are not brought together, and each begins by itself. A fork of the process records
/// nothing.
///
/// Thread-safety: the thread that made it, except for `request`.
/// Owns: the profiler of the process, of which there is one, also where ranks are threads.
class LOCKSTEP_API Profiler {
 public:
  /// Step 0 begins. Makes the folder where there is none.
  /// Throws: `c10::Error` for options out of range, for a folder in which this process cannot make
  /// files, and where the process has a `Profiler` already or another profiler of LibTorch runs.
  Profiler(const std::shared_ptr<ProcessGroup>& group, const std::filesystem::path& folder,
           const ProfilerOptions& options = {});
  /// As `stop`, but what goes wrong is logged. An exception of the program thus leaves a trace of
  /// the steps before it.
  ~Profiler();
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  /// A step has ended, and the next one begins. Saves where the step was the last one to record.
  /// Blocks: while it writes the trace.
  /// Throws: `c10::Error` where no operator was recorded, where the trace cannot be written, or
  /// where another profiler runs already. Training may go on: nothing is recorded then, and later
  /// steps are as the schedule has them.
  void step();

  /// Ends. Saves what was recorded of steps that were to be saved later; the profiler does nothing
  /// from now on.
  /// Blocks: as `step`.
  /// Throws: as `step`.
  void stop();

  /// The steps after the next `step` are recorded. During warm-up and recording, the steps of the
  /// schedule answer the request.
  /// Thread-safety: any thread, and handlers of signals.
  void request() noexcept;

  /// Whether this step is recorded.
  [[nodiscard]] bool is_recording() const noexcept;
  /// How often `step` was called.
  [[nodiscard]] std::int64_t current_step() const noexcept;
  /// The trace that was saved last.
  [[nodiscard]] const std::optional<std::filesystem::path>& last_trace() const noexcept;

  /// Shows a span in the trace. Does nothing while nothing is recorded, or for a span that ended
  /// before that.
  /// Throws: `c10::Error` for a span that ends before it begins.
  void add(TraceSpan span);
  /// Shows the last step of a wrapped model. To be called after backward; the same step counts
  /// once. Asking a model for its statistics copies names, so ask while `is_recording()`:
  ///
  ///     if (profiler.is_recording()) profiler.add(model->statistics());
  ///
  /// `model`: see `spans_of`.
  void add(const DistributedDataParallelStatistics& statistics, const std::string& model = "DDP");

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::training
