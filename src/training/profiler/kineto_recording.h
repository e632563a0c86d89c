// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace lockstep::training {

/// The time of day of a moment of the steady clock, in nanoseconds since 1970.
class TimeOfDay {
 public:
  /// Compares the clocks now.
  static TimeOfDay now();
  [[nodiscard]] std::int64_t of(std::chrono::steady_clock::time_point moment) const {
    return offset_ + std::chrono::nanoseconds(moment.time_since_epoch()).count();
  }

 private:
  std::int64_t offset_ = 0;
};

/// LibTorch's profiler for some steps: prepare, start, stop. The only place that sees Kineto.
///
/// Kineto does not end well what was prepared and never started, and it is one for the process; so
/// this class starts before it stops, and `KinetoClaim` keeps others of ours away.
/// Thread-safety: `start`, `begin_step`, `end_step` and `stop` in one thread.
/// Owns: Kineto's session of the process, while it is prepared or recording.
class KinetoRecording {
 public:
  KinetoRecording(bool shapes, bool memory);
  ~KinetoRecording();
  KinetoRecording(const KinetoRecording&) = delete;
  KinetoRecording& operator=(const KinetoRecording&) = delete;

  /// Does nothing where that was done.
  /// Throws: `c10::Error` where another profiler runs.
  void prepare();
  /// Prepares first.
  /// Throws: as `prepare`.
  void start();
  [[nodiscard]] bool is_recording() const noexcept;
  /// The time of day, as it was at the start.
  [[nodiscard]] const TimeOfDay& time_of_day() const noexcept { return time_of_day_; }
  [[nodiscard]] std::chrono::steady_clock::time_point started_at() const noexcept {
    return started_at_;
  }

  /// Marks a step, as torch.profiler does.
  void begin_step(std::int64_t step);
  void end_step() noexcept;

  /// What there is of a recording that has ended.
  enum class Result { Operators, NoOperators, Nothing };
  /// Ends, and writes the trace to a file unless there is nothing to write.
  /// Throws: `c10::Error`. Nothing is under way afterwards.
  Result stop(const std::string& path);
  /// Ends without a trace.
  void cancel() noexcept;
  /// How many recordings of this process have ended. What began in one and goes on has an end that
  /// Kineto would write into memory that is gone, if another one records by then.
  [[nodiscard]] static std::uint64_t ended() noexcept;
  /// Leaves all as it is: for a fork of the process, and for another thread.
  void leave() noexcept;

 private:
  struct Session;
  std::unique_ptr<Session> session_;  // from `prepare` to `stop`
  bool shapes_;
  bool memory_;
  TimeOfDay time_of_day_;
  std::chrono::steady_clock::time_point started_at_;
};

}  // namespace lockstep::training
