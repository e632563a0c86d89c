// SPDX-License-Identifier: BSD-3-Clause
// The NCCL backend over a NCCL and GPUs that are made up (support/fake_nccl.h): what it asks of
// them, in which order, and what it gives back. Says nothing about real ones.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <string>
#include <thread>

#include "support/collective_conformance.h"
#include "support/forks.h"
#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Group = std::shared_ptr<ProcessGroup>;
using Calls = std::vector<std::string>;

/// What docs/process_groups.md says of NCCL.
bool has_reduction(at::ScalarType dtype, ReduceOp op) {
  if (!is_supported(dtype, op) || dtype == at::kShort) return false;
  const bool is_bitwise = op == ReduceOp::BitAnd || op == ReduceOp::BitOr || op == ReduceOp::BitXor;
  if (dtype == at::kBool) return op != ReduceOp::BitXor;
  if (c10::isComplexType(dtype)) return op != ReduceOp::Product;
  return !is_bitwise;
}

/// A factor is rounded to the dtype that NCCL multiplies in.
bool is_rounded(at::ScalarType dtype, ReduceOp op) {
  return op.kind() == ReduceOp::Kind::PreMulSum && c10::elementSize(dtype) < 4;
}

void check_nccl_reductions(ProcessGroup& group) {
  for (const auto dtype : kDtypes) {
    for (auto op : kReductions) {
      if (is_rounded(dtype, op)) op = ReduceOp::PreMulSum(0.25);
      if (!has_reduction(dtype, op)) {
        EXPECT_THROW(group.all_reduce(values_of_rank(0, 3, dtype), op), c10::Error)
            << text_of("all_reduce", op, 3, dtype);
        continue;
      }
      for (const std::int64_t length : {0, 1, 17, 1000}) {
        const auto tensor = values_of_rank(group.rank(), length, dtype);
        group.all_reduce(tensor, op).wait();
        expect_same_bits(tensor, expected_reduction(group.size(), length, dtype, op),
                         text_of("all_reduce", op, length, dtype));
      }
    }
  }
}

class NcclRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, NcclRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(NcclRanks, ReductionsOfEveryDtype) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) {
    check_nccl_reductions(*group);
    group->close();
  });
}

TEST_P(NcclRanks, ForksOfARankMayOnlyLetItsGroupGo) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) {
    std::shared_ptr<ProcessGroup> own = group;
    const_cast<Group&>(group).reset();
    fork_and_work_on(own);
  });
}

TEST_P(NcclRanks, CollectivesMatchSumsMadeByHand) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) {
    check_not_a_number(*group);
    check_reduce(*group);
    check_reduce_scatter(*group);
    check_broadcast(*group);
    check_all_gather(*group);
    check_gather_and_scatter(*group);
    check_all_to_all(*group);
    check_strides(*group);
    check_barriers(*group);
    group->close();
  });
}

TEST_P(NcclRanks, GroupMemoryIsKnownToNcclAndGivenBack) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, GetParam(), [](const Group& group) {
    check_registered_memory(*group);
    check_mixed_memory(*group);
    check_pipelining(*group);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
  EXPECT_GE(world->windows_made(), 100 * GetParam());
}

TEST_P(NcclRanks, GroupMemoryOutlivesTheGroup) {
  run_nccl_ranks_or_throw(GetParam(), [](Group group) {
    const auto tensor = group->allocate({5000}, torch::kFloat);
    tensor.fill_(2);
    group->all_reduce(tensor, ReduceOp::Avg).wait();
    group->close();
    group.reset();
    EXPECT_EQ(tensor.sum().item<float>(), 10000.0F);
  });
}

TEST_P(NcclRanks, GroupsOfSomeRanks) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) {
    check_groups(*group);
    group->close();
  });
}

TEST_P(NcclRanks, ComparedCallsGiveTheSame) {
  run_nccl_ranks_or_throw(
      GetParam(),
      [](const Group& group) {
        check_reduce_scatter(*group);
        check_all_to_all(*group);
        check_groups(*group);
        group->close();
      },
      /*check_calls=*/true);
}

TEST_P(NcclRanks, WorkMayBeDropped) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) {
    for (int i = 0; i < 50; ++i) group->all_reduce(torch::ones({1000}));
    group->close();
  });
}

TEST_P(NcclRanks, AGroupThatWasNeverUsedIsClosed) {
  run_nccl_ranks_or_throw(GetParam(), [](const Group& group) { group->close(); });
}

TEST(NcclCalls, FollowFromSizesAndNotFromWhereTensorsLie) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [](const Group& group) {
    const auto one = torch::empty({2, 3});
    const std::vector<torch::Tensor> apart{torch::empty({3}), torch::empty({3})};
    const auto input = torch::full({3}, group->rank() + 1, torch::kFloat);
    // In a row on one rank, apart on the other.
    if (group->rank() == 0) {
      group->all_gather(one, input).wait();
    } else {
      group->all_gather(apart, input).wait();
    }
    EXPECT_EQ((group->rank() == 0 ? one[1] : apart[1])[2].item<float>(), 2.0F);
    const auto output = torch::empty({3});
    if (group->rank() == 0) {
      group->reduce_scatter(output, torch::ones({6})).wait();
    } else {
      group->reduce_scatter(output, {torch::ones({3}), torch::full({3}, 5.0F)}).wait();
    }
    EXPECT_EQ(output[2].item<float>(), group->rank() == 0 ? 2.0F : 6.0F);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
  for (const int rank : {0, 1})
    EXPECT_EQ(world->calls(rank), (Calls{"all_gather", "reduce_scatter"}));
}

TEST(NcclCalls, OfUnevenPiecesAreOneForEachRank) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [](const Group& group) {
    const std::vector<torch::Tensor> rows{torch::zeros({2}), torch::zeros({3})};
    const auto own =
        torch::full_like(rows[static_cast<std::size_t>(group->rank())], group->rank() + 1);
    group->all_gather(rows, own).wait();
    EXPECT_TRUE(torch::equal(rows[0], torch::full({2}, 1.0F)));
    EXPECT_TRUE(torch::equal(rows[1], torch::full({3}, 2.0F)));
    group->reduce_scatter(own, rows).wait();
    EXPECT_EQ(own[1].item<float>(), group->rank() == 0 ? 2.0F : 4.0F);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
  for (const int rank : {0, 1}) {
    EXPECT_EQ(world->calls(rank), (Calls{"broadcast", "broadcast", "reduce", "reduce"}));
  }
}

TEST(NcclCalls, WhatNcclCannotReduceIsRefusedByName) {
  run_nccl_ranks_or_throw(2, [](const Group& group) {
    try {
      group->all_reduce(torch::ones({2}, torch::kShort));
      ADD_FAILURE() << "no error";
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find("NCCL cannot reduce Short"), std::string::npos);
    }
    try {
      group->all_reduce(torch::ones({2}, torch::kInt), ReduceOp::BitOr);
      ADD_FAILURE() << "no error";
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find("NCCL has no BitOr of Int"), std::string::npos);
    }
    sum_up(*group);  // and nobody is out of step
    group->close();
  });
}

TEST(NcclCalls, OfFloat8AreReducedOnNewDevicesOnly) {
  const auto world = std::make_shared<FakeNccl>();
  world->set_compute_capability(80);
  const auto errors = run_nccl_ranks(world, 2, [](const Group& group) {
    for (const auto dtype : {at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
      const auto tensor = torch::full({4}, group->rank() + 1).to(dtype);
      try {
        group->all_reduce(tensor);
        ADD_FAILURE() << "no error";
      } catch (const CommError& error) {
        ADD_FAILURE() << "the group ended: " << error.what();
      } catch (const c10::Error& error) {
        EXPECT_NE(
            std::string(error.what()).find("needs compute capability 9.0, device cpu has 8.0"),
            std::string::npos)
            << error.what();
      }
      EXPECT_THROW(group->reduce_scatter(tensor.slice(0, 0, 2).clone(), tensor), c10::Error);
      group->broadcast(tensor, 1).wait();
      EXPECT_EQ(tensor.to(torch::kFloat)[3].item<float>(), 2.0F);
    }
    sum_up(*group);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->calls(0), (Calls{"broadcast", "broadcast", "all_reduce"}));
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclMessages, GoRoundARingWhenTheyAreCoalesced) {
  run_nccl_ranks_or_throw(3, [](const Group& group) {
    sum_up(*group);
    const auto tensor = torch::empty({100});
    group
        ->coalesced([&] {
          group->send(torch::full({100}, group->rank(), torch::kFloat), (group->rank() + 1) % 3);
          auto receiving = group->recv(tensor, (group->rank() + 2) % 3);
          EXPECT_FALSE(receiving.is_completed());
        })
        .wait();
    EXPECT_EQ(tensor[99].item<float>(), static_cast<float>((group->rank() + 2) % 3));
    group->close();
  });
}

TEST(NcclMessages, GoRoundARingInTheFirstCallsOfAGroup) {
  run_nccl_ranks_or_throw(3, [](const Group& group) {
    const auto sum = torch::ones({4}), sent = torch::full({4}, group->rank());
    const auto received = torch::full({4}, -1);
    group
        ->coalesced([&] {
          group->all_reduce(sum);  // the communicator is made for this
          group->send(sent, (group->rank() + 1) % 3);
          group->recv(received, (group->rank() + 2) % 3);
        })
        .wait();
    EXPECT_EQ(sum[0].item<float>(), 3);
    EXPECT_EQ(received[3].item<int>(), (group->rank() + 2) % 3);
    group->close();
  });
}

TEST(NcclMessages, PassOneByOneInTheOrderOfTheCalls) {
  run_nccl_ranks_or_throw(
      2,
      [](const Group& group) {
        sum_up(*group);
        for (int i = 0; i < 5; ++i) {
          const auto tensor = torch::full({3 + i}, i);
          if (group->rank() == 0) group->send(tensor, 1, 7).wait();
          if (group->rank() == 1) {
            tensor.zero_();
            group->recv(tensor, 0, 7).wait();
            EXPECT_EQ(tensor[2].item<int>(), i);
          }
        }
        sum_up(*group);
        group->close();
      },
      /*check_calls=*/true);
}

TEST(NcclMessages, ComeAfterTheFirstCollective) {
  run_nccl_ranks_or_throw(2, [](const Group& group) {
    EXPECT_THROW(group->send(torch::ones({1}), 1 - group->rank()), c10::Error);
    EXPECT_THROW(group->recv(torch::ones({1}), 1 - group->rank()), c10::Error);
    group->close();
  });
}

TEST(NcclStreams, WaitLeavesWaitingToTheCurrentStream) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);  // the group's own would wait for what is under way
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    barrier.arrive_and_wait();
    if (group->rank() == 0) world->make_hosts_wait(false);
    if (group->rank() == 0) world->pause(true);
    barrier.arrive_and_wait();
    const auto tensor = torch::ones({8});
    const int waits = world->host_waits(group->rank());
    auto work = group->all_reduce(tensor);
    work.wait();  // returns although nothing moves
    EXPECT_EQ(world->host_waits(group->rank()), waits + 1);
    EXPECT_FALSE(work.is_completed());
    EXPECT_EQ(tensor[0].item<float>(), 1.0F);
    barrier.arrive_and_wait();
    world->pause(false);
    work.wait(kRankTimeout);  // this one blocks
    EXPECT_TRUE(work.is_completed());
    EXPECT_EQ(tensor[0].item<float>(), 2.0F);
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclStreams, TensorsLiveUntilTheyAreNotNeeded) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier barrier(2);  // the group's own would wait for what is under way
  const auto errors = run_nccl_ranks(world, 2, [&](const Group& group) {
    sum_up(*group);
    auto tensor = torch::ones({100000});
    const c10::weak_intrusive_ptr<c10::TensorImpl> watch(tensor.getIntrusivePtr());
    barrier.arrive_and_wait();
    world->make_hosts_wait(false);
    world->pause(true);
    barrier.arrive_and_wait();
    auto work = group->all_reduce(tensor);
    work.wait();
    tensor.reset();
    EXPECT_FALSE(watch.expired());
    barrier.arrive_and_wait();
    world->pause(false);
    work.wait(kRankTimeout);
    EXPECT_TRUE(watch.expired());
    group->close();
  });
  expect_no_errors(errors);
}

TEST(NcclGroups, AreSplitByNccl) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 3, [&](const Group& group) {
    sum_up(*group);
    const auto part = group->split(group->rank() == 2 ? -1 : 0);
    if (part) {
      sum_up(*part);
      part->close();
    }
    group->close();
  });
  expect_no_errors(errors);
  EXPECT_EQ(world->splits(), 3);
  EXPECT_EQ(world->complaints(), Calls());
}

TEST(NcclGroups, AreClosedInAnyOrder) {
  run_nccl_ranks_or_throw(3, [](Group group) {
    sum_up(*group);
    const auto part = group->split(group->rank() == 0 ? 0 : 1);
    group->close();
    group.reset();
    sum_up(*part);
    part->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
