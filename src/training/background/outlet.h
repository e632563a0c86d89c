// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "training/background/line_ring.h"

namespace lockstep::training {

/// What `BackgroundWriterStatistics` has, as the thread and callers count it.
struct WriterCounters {
  std::atomic<std::uint64_t> lines{0};
  std::atomic<std::uint64_t> lines_written{0};
  std::atomic<std::uint64_t> lines_lost{0};
  std::atomic<std::uint64_t> files{0};
  std::atomic<std::uint64_t> files_written{0};
  std::atomic<std::uint64_t> files_failed{0};
  std::atomic<std::uint64_t> bytes{0};
};

/// Where lines go: a file or a server. It keeps lines up to a bound while it cannot be reached, and
/// counts those that come beyond.
///
/// Thread-safety: the writer's thread alone calls it.
class Outlet {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit Outlet(std::shared_ptr<WriterCounters> counters) : counters_(std::move(counters)) {}
  virtual ~Outlet() = default;
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;

  /// Takes a line. False: there is no memory, and the line is lost and counted.
  [[nodiscard]] bool accept(const QueuedLine& line) noexcept {
    ++taken_;
    try {
      take(line);
      return true;
    } catch (const std::exception&) {
      count_lost(1);
      return false;
    }
  }
  /// So many lines were lost before they came here, and are counted already.
  virtual void note_lost(std::uint64_t lines, const std::string& reason) = 0;

  /// Does what can be done now, and never waits for a server. Returns when it is to be called
  /// again; `TimePoint::max()`: after the next line.
  [[nodiscard]] virtual TimePoint service(TimePoint now) = 0;
  /// What was going to be tried again later is tried by the next `service`, unless a server has
  /// asked for a pause and this is not the end.
  virtual void try_now(bool is_end) = 0;
  /// Whether nothing is left to do.
  [[nodiscard]] virtual bool is_done() const = 0;
  [[nodiscard]] virtual bool is_remote() const { return false; }
  /// Whether the last attempt has failed: whoever waits for this outlet alone need not go on.
  [[nodiscard]] virtual bool is_failing() const { return false; }
  /// Another file has the name now.
  virtual void reopen() {}

  /// The process or the writer ends: saves what can be saved, and lets the rest go. Returns what
  /// was lost, in words; "": nothing.
  [[nodiscard]] virtual std::string give_up() = 0;
  /// The process leaves by `exit`: no server can be reached any more. After `give_up`.
  virtual void leave_network() {}

  /// How many lines have come, and how many of them are written or lost.
  [[nodiscard]] std::uint64_t taken() const noexcept { return taken_; }
  [[nodiscard]] std::uint64_t settled() const noexcept { return settled_; }

 protected:
  /// May throw where there is no memory; then the line is not taken.
  virtual void take(const QueuedLine& line) = 0;
  void count_taken(std::uint64_t lines) noexcept { taken_ += lines; }
  void count_written(std::uint64_t lines) noexcept {
    settled_ += lines;
    counters_->lines_written += lines;
  }
  void count_lost(std::uint64_t lines) noexcept {
    settled_ += lines;
    counters_->lines_lost += lines;
  }
  [[nodiscard]] WriterCounters& counters() const noexcept { return *counters_; }

 private:
  const std::shared_ptr<WriterCounters> counters_;
  std::uint64_t taken_ = 0;
  std::uint64_t settled_ = 0;
};

/// An outlet, as callers refer to it.
class LineChannel {
 public:
  /// `path`: of the file; empty: a server.
  /// `settings`: in words, by which the file is written.
  LineChannel(std::string path, std::unique_ptr<Outlet> outlet, bool is_sink,
              std::string settings = {})
      : path_(std::move(path)),
        outlet_(std::move(outlet)),
        is_sink_(is_sink),
        settings_(std::move(settings)) {}

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Whether it has log lines.
  [[nodiscard]] bool is_sink() const noexcept { return is_sink_; }
  [[nodiscard]] const std::string& settings() const noexcept { return settings_; }
  /// For the thread.
  [[nodiscard]] Outlet& outlet() const noexcept { return *outlet_; }

  /// Lines that did not fit the queue. Any thread adds, the writer's takes.
  std::atomic<std::uint64_t> lost{0};

 private:
  const std::string path_;
  const std::unique_ptr<Outlet> outlet_;
  const bool is_sink_;
  const std::string settings_;
};

/// Grows with each failure.
class BackOff {
 public:
  BackOff(std::chrono::milliseconds first, std::chrono::milliseconds most)
      : first_(first), most_(most), next_(first) {}

  [[nodiscard]] std::chrono::milliseconds take() noexcept {
    return std::exchange(next_, std::min(most_, 2 * next_));
  }
  void reset() noexcept { next_ = first_; }

 private:
  std::chrono::milliseconds first_;
  std::chrono::milliseconds most_;
  std::chrono::milliseconds next_;
};

}  // namespace lockstep::training
