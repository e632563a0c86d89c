// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "chart.h"
#include "run_data.h"

namespace report {

/// "loader of tests/samples" is `samples` of the prefix "loader of tests".
[[nodiscard]] std::pair<std::string, std::string> split_name(const std::string& name);
/// Which of "ddp", "loader" and "checkpoints" the statistics of this prefix are; empty: none.
[[nodiscard]] std::string statistics_kind(const std::string& prefix);
/// The prefixes of that kind.
[[nodiscard]] std::set<std::string> prefixes_of(const RunData& data, const std::string& kind);

/// The points of a name and a rank; empty: there are none.
[[nodiscard]] const std::vector<Point>& points_of(const RunData& data, const std::string& name,
                                                  std::int64_t rank);
/// All that a sum grew, over all starts of the run, which begin with 0 again.
[[nodiscard]] double grown(const std::vector<Point>& points);
/// How much `above` grew for each `below`, at the later steps of pairs. Both have points of the
/// same lines. Where `below` is empty, it is the time.
[[nodiscard]] std::vector<Point> rates(const std::vector<Point>& above,
                                       const std::vector<Point>& below, bool by_time = false);
/// Steps a second, of whatever this rank logged most often.
[[nodiscard]] std::vector<Point> step_rates(const RunData& data, std::int64_t rank);

/// The mean time of a step of a rank, by its parts, in seconds; empty: the rank logged none.
[[nodiscard]] std::vector<Share> phases(const RunData& data, std::int64_t rank);

}  // namespace report
