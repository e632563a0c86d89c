// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/host_layout.h"

#include <algorithm>
#include <functional>
#include <map>

#include "native/posix/host_name.h"

namespace lockstep {

std::int64_t host_number(const LaunchEnvironment& environment) {
  if (environment.host.empty()) return native::host_hash();
  return static_cast<std::int64_t>(std::hash<std::string>{}(environment.host));
}

HostLayout HostLayout::of(const std::vector<std::int64_t>& numbers, int rank) {
  HostLayout layout;
  std::map<std::int64_t, std::size_t> places;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto [place, is_new] = places.try_emplace(numbers[i], layout.hosts.size());
    if (is_new) layout.hosts.emplace_back();
    auto& ranks = layout.hosts[place->second];
    if (!is_new && ranks.back() != static_cast<int>(i) - 1) layout.is_in_rank_order = false;
    ranks.push_back(static_cast<int>(i));
  }
  layout.own_host = layout.host_of(rank);
  layout.own_index = layout.index_of(rank);
  return layout;
}

std::size_t HostLayout::host_of(int rank) const {
  const auto found = std::find_if(hosts.begin(), hosts.end(), [rank](const auto& ranks) {
    return std::binary_search(ranks.begin(), ranks.end(), rank);
  });
  return static_cast<std::size_t>(found - hosts.begin());
}

int HostLayout::index_of(int rank) const {
  const auto& ranks = hosts[host_of(rank)];
  return static_cast<int>(std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin());
}

std::size_t HostLayout::smallest_host() const {
  const auto smallest = std::min_element(
      hosts.begin(), hosts.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  return smallest->size();
}

}  // namespace lockstep
