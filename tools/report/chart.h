// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "run_data.h"

namespace report {

/// A line of a chart.
struct Curve {
  std::string name;  ///< "rank 0"
  std::vector<Point> points;
};

/// A picture of curves over steps with its legend, and their values in a table that opens. What is
/// no number is a mark at the lower border.
[[nodiscard]] std::string chart(const std::string& title, const std::vector<Curve>& curves,
                                const std::string& unit = "");

/// A part of a bar.
struct Share {
  std::string name;
  double value = 0;
};

/// A bar whose parts have lengths as their values.
[[nodiscard]] std::string bar(const std::vector<Share>& shares);

/// How many colours there are; classes c0, c1 ... of the page.
constexpr std::size_t kColours = 8;
[[nodiscard]] std::string colour_class(std::size_t index);

}  // namespace report
