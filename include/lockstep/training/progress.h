// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::training {

/// How progress is shown.
enum class ProgressStyle {
  Silent,  ///< not at all: on all ranks but the first
  Bar,     ///< one line that redraws itself, on a terminal
  Lines,   ///< plain lines, in a file or a pipe
};

/// What fits this process: `Silent` on all ranks but 0, a `Bar` where stdout and stderr are both
/// terminals that can redraw, `Lines` elsewhere. A launcher may give a rank one terminal and one
/// pipe, whatever its own are; so both count.
/// Thread-safety: any thread.
[[nodiscard]] LOCKSTEP_API ProgressStyle choose_progress_style(int rank);

/// What a `Progress` is told.
struct ProgressOptions {
  /// How it is shown.
  TORCH_ARG(ProgressStyle, style) = ProgressStyle::Lines;
  /// How many epochs there are.
  TORCH_ARG(std::int64_t, epochs) = 1;
  /// Steps of an epoch; 0: nobody knows, as of a stream. Then there are no percentages and no
  /// remaining time.
  TORCH_ARG(std::int64_t, steps_per_epoch) = 0;
  /// What is counted: "samples", "tokens".
  TORCH_ARG(std::string, unit) = "samples";
  /// The time between two pictures of the bar.
  TORCH_ARG(std::chrono::milliseconds, redraw_interval) = std::chrono::milliseconds(200);
  /// The time between two plain lines.
  TORCH_ARG(std::chrono::milliseconds, line_interval) = std::chrono::seconds(10);
  /// Characters of a line of the terminal; 0: those that stdout or stderr has, or 80. The bar is
  /// cut there, since it could not redraw a line that goes on in the next.
  TORCH_ARG(std::size_t, columns) = 0;
  /// The clock. A test may have one of its own.
  TORCH_ARG(std::function<std::chrono::steady_clock::time_point()>, clock) = [] {
    return std::chrono::steady_clock::now();
  };
};

/// Names and values to be shown.
using ProgressValues = std::vector<std::pair<std::string, double>>;

/// Tells people how training goes, on a stream of the program's: how much is done, values such as
/// the loss, the speed, and the time that is left.
///
///     Progress progress(std::cout, ProgressOptions().style(choose_progress_style(group->rank()))
///                                      .epochs(4).steps_per_epoch(loader.size()));
///     for (...) {                                // each epoch
///       progress.begin_epoch(epoch);
///       for (auto& batch : loader) {
///         ...
///         progress.step(batch.size * group->size(), [&] { return ProgressValues{{"loss", loss}};
///         });
///       }
///       progress.end_epoch({{"loss", loss}, {"test accuracy", accuracy}});
///     }
///
/// A silent one takes the same calls and writes nothing.
///
/// Thread-safety: one thread at a time. The stream must outlive it.
class LOCKSTEP_API Progress {
 public:
  /// Throws: `c10::Error` for no epochs, a negative number of steps, 1 to 19 columns, or no
  /// clock.
  explicit Progress(std::ostream& stream, ProgressOptions options = {});
  /// Ends a line that is still being redrawn, so that what follows has a line of its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Epochs count from 0 here and from 1 in what people read. `steps_done`: of a run that was
  /// resumed in the middle of an epoch; they do not count for speed and time.
  /// Throws: `c10::Error` for an epoch or a number of steps that there is not.
  void begin_epoch(std::int64_t epoch, std::int64_t steps_done = 0);
  /// One more step is done, in which all ranks have seen `samples`. `values` is called when
  /// something is shown.
  void step(std::int64_t samples, const std::function<ProgressValues()>& values = {});
  /// Writes a line that stays, with the speed in the epoch's steps.
  void end_epoch(const ProgressValues& values = {});

  /// From the begin of each epoch to its last step: without tests between the epochs.
  [[nodiscard]] std::chrono::duration<double> training_time() const;
  /// Of all steps so far, per second of `training_time`.
  [[nodiscard]] double samples_per_second() const;

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] std::string head() const;
  [[nodiscard]] std::string tail() const;
  void redraw(const std::string& line);

  std::ostream& stream_;
  ProgressOptions options_;
  std::int64_t epoch_ = 0;
  std::int64_t step_ = 0;
  std::int64_t steps_here_ = 0;  // that this object has seen, in all epochs
  std::int64_t samples_ = 0;
  std::int64_t epoch_samples_ = 0;
  std::chrono::duration<double> earlier_epochs_{0};
  std::chrono::duration<double> this_epoch_{0};
  Clock::time_point start_;
  Clock::time_point epoch_start_;
  Clock::time_point last_shown_;
  std::size_t drawn_ = 0;  // characters on the line that is being redrawn
};

/// "0:07", "12:30", "1:02:03": rounded to seconds; 0:00 for less than nothing.
/// Thread-safety: any thread.
[[nodiscard]] LOCKSTEP_API std::string format_duration(std::chrono::duration<double> duration);

}  // namespace lockstep::training
