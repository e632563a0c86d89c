// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace lockstep::data {

/// How many standard deviations Pearson's statistic of these counts lies above its mean, when
/// category i has the part `expected[i]` of all. All seeds are fixed, so a limit of 5 fails always
/// or never.
inline double chi_square_sigmas(const std::vector<std::size_t>& seen,
                                const std::vector<double>& expected) {
  double total = 0;
  for (const auto count : seen) total += static_cast<double>(count);
  double statistic = 0;
  double categories = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (expected[i] == 0) {
      if (seen[i] != 0) return 1e9;
      continue;
    }
    const double due = total * expected[i];
    statistic += (static_cast<double>(seen[i]) - due) * (static_cast<double>(seen[i]) - due) / due;
    ++categories;
  }
  if (categories < 2) return 0;
  return (statistic - (categories - 1)) / std::sqrt(2 * (categories - 1));
}

/// All categories alike.
inline double chi_square_sigmas(const std::vector<std::size_t>& seen) {
  return chi_square_sigmas(seen,
                           std::vector<double>(seen.size(), 1 / static_cast<double>(seen.size())));
}

}  // namespace lockstep::data
