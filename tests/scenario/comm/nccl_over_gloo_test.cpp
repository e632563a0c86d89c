// SPDX-License-Identifier: BSD-3-Clause
// The NCCL backend with gloo at its side, over a NCCL that is made up (support/fake_nccl.h).
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <string>
#include <utility>

#include "comm/gloo/make_process_group.h"
#include "support/free_port.h"
#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Calls = std::vector<std::string>;

std::vector<std::exception_ptr> run_over_gloo(const std::shared_ptr<FakeNccl>& world,
                                              int world_size, const NcclBody& body) {
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
  const auto make_group = [&](const LaunchEnvironment& environment) {
    auto side = make_gloo_process_group(environment, kRankTimeout, rendezvous);
    return make_fake_nccl_group(world, std::move(side), /*check_calls=*/true);
  };
  return run_groups(world_size, make_group, body);
}

TEST(NcclOverGloo, CallsAndMessagesAreCompared) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_over_gloo(world, 2, [](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    const auto tensor = torch::full({5}, group->rank());
    (group->rank() == 0 ? group->send(tensor, 1, 7) : group->recv(tensor, 0, 7)).wait();
    EXPECT_EQ(tensor[4].item<int>(), 0);
    sum_up(*group);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclOverGloo, ARankThatGivesUpIsNoticedByTheWatchdog) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);
  const auto errors = run_over_gloo(world, 2, [&](const std::shared_ptr<ProcessGroup>& group) {
    sum_up(*group);
    group->barrier();
    world->pause(true);
    auto work = group->all_reduce(torch::ones({4}));
    EXPECT_TRUE(happens([&] {
      static_cast<void>(work.is_completed());
      return world->calls(group->rank()).size() == 2;
    }));
    barrier.arrive_and_wait();
    if (group->rank() == 1) throw std::runtime_error("out of luck");
    // Nobody calls into the group meanwhile.
    ASSERT_TRUE(happens([&] { return world->aborts() == 2; }));
    work.wait();
  });
  expect_error<PeerLostError>(errors[0], "rank 1 gave up: ");
  EXPECT_EQ(world->complaints(), Calls());
}

}  // namespace
}  // namespace lockstep::testing
