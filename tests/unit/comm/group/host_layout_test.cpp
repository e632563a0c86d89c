// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include "comm/group/host_layout.h"

namespace lockstep {
namespace {

using Hosts = std::vector<std::vector<int>>;

TEST(HostLayout, PutsHostsInTheOrderOfTheirFirstRanks) {
  const auto layout = HostLayout::of({9, 9, -4, -4, -4}, 3);
  EXPECT_EQ(layout.hosts, (Hosts{{0, 1}, {2, 3, 4}}));
  EXPECT_EQ(layout.own_host, 1U);
  EXPECT_EQ(layout.own_index, 1);
  EXPECT_TRUE(layout.is_in_rank_order);
  EXPECT_EQ(layout.smallest_host(), 2U);
  EXPECT_EQ(layout.host_of(1), 0U);
  EXPECT_EQ(layout.index_of(4), 2);
}

TEST(HostLayout, SeesRanksThatDoNotFollowOneAnother) {
  const auto layout = HostLayout::of({1, 2, 1, 2}, 2);
  EXPECT_EQ(layout.hosts, (Hosts{{0, 2}, {1, 3}}));
  EXPECT_EQ(layout.own_index, 1);
  EXPECT_FALSE(layout.is_in_rank_order);
}

TEST(HostLayout, PretendedHostsDifferByTheirNames) {
  LaunchEnvironment a, b;
  EXPECT_EQ(host_number(a), host_number(b)) << "both are on this machine";
  a.host = "a";
  b.host = "b";
  EXPECT_NE(host_number(a), host_number(b));
  b.host = "a";
  EXPECT_EQ(host_number(a), host_number(b));
}

}  // namespace
}  // namespace lockstep
