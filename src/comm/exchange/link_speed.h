// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace lockstep {

/// How fast a rank exchanges bytes with one of another host, in both directions at once, while as
/// many ranks of all hosts as the smallest host has do so too.
struct LinkSpeed {
  double latency = 0;           ///< seconds that an exchange of a few bytes takes
  double bytes_per_second = 0;  ///< of one rank, in each direction, the latency included

  [[nodiscard]] bool is_known() const noexcept { return bytes_per_second > 0; }
  /// "31 us, 1.17 GB/s".
  [[nodiscard]] std::string describe() const;
};

}  // namespace lockstep
