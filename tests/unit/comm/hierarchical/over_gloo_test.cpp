// SPDX-License-Identifier: BSD-3-Clause
// The hierarchical backend with gloo between the hosts. Ranks are threads, and the hosts are names.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "comm/gloo/make_process_group.h"
#include "comm/group/group_core.h"
#include "comm/hierarchical/make_process_group.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/in_process_ranks.h"
#include "support/random_conformance.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;

/// `hosts`: one letter a rank.
std::vector<std::exception_ptr> run_hosts_over_gloo(const std::string& hosts,
                                                    const std::function<void(const Group&)>& body) {
  ::setenv("GLOO_SOCKET_IFNAME", "lo", 1);
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
  const auto make_group = [&](LaunchEnvironment environment) {
    environment.host = hosts.substr(static_cast<std::size_t>(environment.rank), 1);
    return make_hierarchical_process_group(
        environment, kRankTimeout,
        [&](GroupContext& all) { return make_gloo_backend(all, rendezvous); },
        make_round_reduction);
  };
  return run_groups(static_cast<int>(hosts.size()), make_group, body);
}

class HostsOverGloo : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Hosts, HostsOverGloo, ::testing::Values("aabb", "aba"));

TEST_P(HostsOverGloo, CollectivesMatchSumsMadeByHandInRankOrder) {
  const auto errors = run_hosts_over_gloo(GetParam(), [](const Group& group) {
    EXPECT_EQ(group->backend(), Backend::Hierarchical);
    check_reduce(*group);
    check_reduce_scatter(*group);
    check_broadcast(*group);
    check_all_gather(*group);
    check_gather_and_scatter(*group);
    check_all_to_all(*group);
    check_registered_memory(*group);
    check_pipelining(*group);
    check_barriers(*group);
    check_messages(*group);
    check_groups(*group);
    check_random_calls(*group, 40);
    check_long_tensors(*group);
    group->close();
  });
  expect_no_errors(errors);
}

TEST_P(HostsOverGloo, ForksOfARankMayOnlyLetItsGroupGo) {
  const auto errors = run_hosts_over_gloo(
      GetParam(), [](const Group& group) { fork_and_work_on(const_cast<Group&>(group)); });
  expect_no_errors(errors);
}

TEST_P(HostsOverGloo, ARankThatThrowsIsNamed) {
  const auto errors = run_hosts_over_gloo(GetParam(), [](const Group& group) {
    group->barrier();
    if (group->rank() == 1) throw std::runtime_error("bad luck");
    group->all_reduce(torch::ones({10})).wait();
  });
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    expect_error<PeerLostError>(errors[rank], "rank ");
    expect_error<PeerLostError>(errors[rank], "gave up");
  }
}

TEST(HostsOverGloo, ARankOfAnotherHostThatGivesUpIsSeenWithoutACall) {
  const auto errors = run_hosts_over_gloo("aab", [](const Group& group) {
    const auto watch = group->core().backend().peer_watch();
    group->barrier();
    if (group->rank() == 2) throw std::runtime_error("bad luck");
    std::string seen;
    EXPECT_TRUE(happens([&] { return !(seen = watch()).empty(); }));
    throw std::runtime_error(seen);
  });
  for (const std::size_t rank : {std::size_t{0}, std::size_t{1}}) {
    EXPECT_NE(text_of(errors[rank]).find("gave up"), std::string::npos) << text_of(errors[rank]);
  }
}

}  // namespace
}  // namespace lockstep::testing
