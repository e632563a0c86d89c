// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstddef>
#include <initializer_list>
#include <utility>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// One number for all groups of an optimizer, or one for each: `0.1` or `{0.1, 0.01}`.
///
/// Thread-safety: none.
class LOCKSTEP_API PerGroup {
 public:
  /// For all groups.
  PerGroup(double value) : values_{value}, is_list_(false) {}  // NOLINT: implicit by design
  /// For each group.
  PerGroup(std::vector<double> values) : values_(std::move(values)) {}  // NOLINT
  /// The same, in braces.
  PerGroup(std::initializer_list<double> values) : values_(values) {}  // NOLINT

  /// Whether there is one for each group.
  [[nodiscard]] bool is_list() const noexcept { return is_list_; }
  /// One number a group.
  /// Throws: `c10::Error` where there are more or fewer than groups; `name` says whose.
  [[nodiscard]] std::vector<double> for_groups(const char* name, std::size_t groups) const;

 private:
  std::vector<double> values_;
  bool is_list_ = true;
};

}  // namespace lockstep::optim::lr_scheduler
