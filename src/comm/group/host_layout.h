// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>

#include <cstdint>
#include <vector>

namespace lockstep {

/// The same on all ranks of a host, and on no other host.
[[nodiscard]] std::int64_t host_number(const LaunchEnvironment& environment);

/// Which ranks of a group share a host.
struct HostLayout {
  /// The ranks of each host, in their order; hosts in the order of their first ranks.
  std::vector<std::vector<int>> hosts;
  std::size_t own_host = 0;
  int own_index = 0;  ///< of this rank among its host's
  /// Each host's ranks follow one another. Only then is a sum over hosts, one after the other, a
  /// sum in rank order.
  bool is_in_rank_order = true;

  /// `numbers[r]`: the host of rank r.
  [[nodiscard]] static HostLayout of(const std::vector<std::int64_t>& numbers, int rank);

  [[nodiscard]] const std::vector<int>& own_ranks() const { return hosts[own_host]; }
  [[nodiscard]] std::size_t host_of(int rank) const;
  /// The rank's index among the ranks of its host.
  [[nodiscard]] int index_of(int rank) const;
  [[nodiscard]] std::size_t smallest_host() const;
};

}  // namespace lockstep
