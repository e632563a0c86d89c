// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstdint>
#include <optional>

namespace lockstep::data::detail {

/// Which epoch a loader is at, and how the next pass over it begins: at its start, or in its middle
/// after `load_state`.
///
/// Thread-safety: none; a value.
class LOCKSTEP_API EpochProgress {
 public:
  /// The program asks for `epoch`. Unless that is the epoch already, the next pass begins at its
  /// start.
  void choose(std::int64_t epoch) noexcept;
  /// The next pass begins in the middle of the epoch.
  void resume() noexcept;
  /// A pass over `epoch` has begun. Returns the epoch that the program is likely to ask for after
  /// it: the one that is as far from this one as this one is from the last.
  std::int64_t begin(std::int64_t epoch) noexcept;

  /// The epoch that the program has chosen; 0 at first.
  [[nodiscard]] std::int64_t chosen() const noexcept { return chosen_; }
  /// Whether a pass over the chosen epoch has begun since it was chosen or resumed.
  [[nodiscard]] bool has_begun() const noexcept { return has_begun_; }
  /// Whether the next pass begins in the middle of its epoch.
  [[nodiscard]] bool is_resumed() const noexcept { return is_resumed_; }
  /// Whether the sampler still begins in the middle of an epoch, and the next pass does not.
  [[nodiscard]] bool must_rewind() const noexcept { return was_resumed_ && !is_resumed_; }
  /// Whether the last pass began at the start of `epoch`, and the program has not chosen an epoch
  /// since.
  [[nodiscard]] bool repeats(std::int64_t epoch) const noexcept;

 private:
  std::int64_t chosen_ = 0;
  std::optional<std::int64_t> last_begun_;
  bool is_chosen_ = false;    // choose was called since the last begin
  bool is_resumed_ = false;   // resume was called since the last begin
  bool was_resumed_ = false;  // the last pass began in the middle
  bool has_begun_ = false;
};

}  // namespace lockstep::data::detail
