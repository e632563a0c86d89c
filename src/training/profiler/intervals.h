// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::training {

/// A piece of time from `begin` to `end`, which does not belong to it.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  friend bool operator==(const Interval&, const Interval&) = default;
};

/// The same time as intervals in ascending order that neither overlap nor touch. Empty ones are
/// left out.
[[nodiscard]] std::vector<Interval> merged(std::vector<Interval> intervals);
/// The time that lies in both. Both are `merged`, and so is the result.
[[nodiscard]] std::vector<Interval> intersection(const std::vector<Interval>& a,
                                                 const std::vector<Interval>& b);
/// How long they are together. They are `merged`.
[[nodiscard]] std::int64_t length_of(const std::vector<Interval>& intervals);

}  // namespace lockstep::training
