// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace example {

/// Sums over the images seen so far.
struct Totals {
  double loss = 0;
  int64_t correct = 0;
  int64_t samples = 0;

  [[nodiscard]] double mean_loss() const { return samples == 0 ? 0 : loss / as_double(samples); }
  [[nodiscard]] double accuracy() const {
    return samples == 0 ? 0 : as_double(correct) / as_double(samples);
  }

 private:
  [[nodiscard]] static double as_double(int64_t value) { return static_cast<double>(value); }
};

/// How long a run is.
struct RunLength {
  int64_t epochs = 1;
  int64_t steps_an_epoch = 1;
};

/// Tells how training goes: on a terminal one line that redraws itself, elsewhere plain lines, one
/// every ten seconds and one an epoch. A silent one (on all ranks but the first) takes the same
/// calls and prints nothing.
///
/// Thread-safety: one thread. The stream must outlive it.
class Progress {
 public:
  enum class Style { Silent, Bar, Lines };
  using Clock = std::chrono::steady_clock;

  Progress(std::ostream& stream, Style style, RunLength length);
  /// Ends a line that is still being redrawn, so that what follows starts on its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Epochs count from 0 here and from 1 in what people read.
  void begin_epoch(int64_t epoch, int64_t steps_done = 0);
  /// One more step is done. `totals` are of this epoch, an estimate for all ranks.
  void step(const Totals& totals);
  /// The epoch is trained and tested; both totals are of all ranks.
  void end_epoch(const Totals& training, const Totals& testing);

  /// Time spent in steps, without tests.
  [[nodiscard]] double training_seconds() const { return training_seconds_; }

 private:
  void redraw(const std::string& line);
  [[nodiscard]] std::string time_left() const;

  std::ostream& stream_;
  Style style_;
  RunLength length_;
  int64_t epoch_ = 0;
  int64_t step_ = 0;
  double training_seconds_ = 0;
  double epoch_seconds_ = 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point epoch_start_ = start_;
  Clock::time_point last_shown_ = start_;
  std::size_t drawn_ = 0;  // characters on the line that is being redrawn
};

/// "0:07", "12:30", "1:02:03".
[[nodiscard]] std::string format_duration(double seconds);

}  // namespace example
