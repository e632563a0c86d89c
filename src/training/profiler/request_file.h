// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <utility>

namespace lockstep::training {

/// A file that somebody makes or touches in order to ask for something. It is never removed, so
/// that all ranks of a shared folder see it; what counts is that its time is another one.
///
/// Thread-safety: none.
class RequestFile {
 public:
  using Clock = std::chrono::steady_clock;
  /// How often the disk is asked.
  static constexpr std::chrono::seconds kInterval{1};

  /// A file that is there already asks for nothing.
  explicit RequestFile(std::filesystem::path path)
      : path_(std::move(path)), seen_(time_of_file()), looked_(Clock::now()) {}

  /// Whether the file was touched since the last look, which was `kInterval` ago at least.
  bool look(Clock::time_point now = Clock::now()) {
    if (now - looked_ < kInterval) return false;
    looked_ = now;
    const auto found = time_of_file();
    if (found == seen_) return false;
    seen_ = found;
    return found.has_value();
  }

 private:
  using Time = std::filesystem::file_time_type;
  [[nodiscard]] std::optional<Time> time_of_file() const {
    std::error_code error;
    const Time time = std::filesystem::last_write_time(path_, error);
    return error ? std::nullopt : std::optional<Time>(time);
  }

  std::filesystem::path path_;
  std::optional<Time> seen_;
  Clock::time_point looked_;
};

}  // namespace lockstep::training
