// SPDX-License-Identifier: BSD-3-Clause
#include "training/profiler/intervals.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace lockstep::training {

std::vector<Interval> merged(std::vector<Interval> intervals) {
  std::erase_if(intervals, [](const Interval& one) { return one.begin >= one.end; });
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  std::vector<Interval> result;
  for (const Interval& one : intervals) {
    if (result.empty() || result.back().end < one.begin) {
      result.push_back(one);
    } else {
      result.back().end = std::max(result.back().end, one.end);
    }
  }
  return result;
}

std::vector<Interval> intersection(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  std::vector<Interval> result;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const Interval both{std::max(a[i].begin, b[j].begin), std::min(a[i].end, b[j].end)};
    if (both.begin < both.end) result.push_back(both);
    // The one that ends first can meet nothing further.
    if (a[i].end < b[j].end) {
      ++i;
    } else {
      ++j;
    }
  }
  return result;
}

std::int64_t length_of(const std::vector<Interval>& intervals) {
  std::int64_t length = 0;
  for (const Interval& one : intervals) length += one.end - one.begin;
  return length;
}

}  // namespace lockstep::training
