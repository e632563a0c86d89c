// SPDX-License-Identifier: BSD-3-Clause
// A group over TCP: ranks are threads, and tell each other over shared memory how to be reached.
#include "comm/tcp/backend.h"

#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/group/group_core.h"
#include "comm/shared_memory/backend.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

std::shared_ptr<ProcessGroup> make_tcp_group(const LaunchEnvironment& environment) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Mpi, environment, kRankTimeout, [](GroupContext& group) {
        return std::make_unique<TcpBackend>(group, std::make_unique<SharedMemoryBackend>(group));
      }));
}

std::vector<std::exception_ptr> run_tcp_ranks(int world_size,
                                              const std::function<void(ProcessGroup&)>& body) {
  return run_closing_groups(world_size, make_tcp_group, body);
}

class TcpRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, TcpRanks, ::testing::Values(1, 2, 3));

TEST_P(TcpRanks, DoEverythingThatABackendMust) {
  expect_no_errors(run_tcp_ranks(GetParam(), [](ProcessGroup& group) {
    check_everything(group);
    check_long_tensors(group);
  }));
}

TEST_P(TcpRanks, ReduceManyTensorsAtOnceInTheOrderOfTheRanks) {
  const int ranks = GetParam();
  expect_no_errors(run_tcp_ranks(ranks, [ranks](ProcessGroup& group) {
    std::vector<at::Tensor> tensors, expected;
    std::vector<Work> works;
    for (int index = 0; index < 12; ++index) {
      // Some fit into a frame, some into one piece, others into many.
      const std::int64_t elements = 1 + (std::int64_t{1} << (2 * index));
      at::Tensor sum;
      for (int rank = 0; rank < ranks; ++rank) {
        auto generator =
            at::detail::createCPUGenerator(static_cast<std::uint64_t>(index + 50 * rank));
        const auto values = torch::randn({elements}, generator);
        if (rank == group.rank()) tensors.push_back(values.clone());
        sum = rank == 0 ? values : sum + values;
      }
      expected.push_back(sum);
    }
    for (const auto& tensor : tensors) works.push_back(group.all_reduce(tensor));
    for (std::size_t index = 0; index < works.size(); ++index) {
      works[index].wait();
      EXPECT_TRUE(tensors[index].equal(expected[index])) << "tensor " << index;
    }
  }));
}

TEST(TcpReduce, LeavesTheValuesOfOtherRanksAsTheyAre) {
  expect_no_errors(run_tcp_ranks(3, [](ProcessGroup& group) {
    const auto tensor = torch::full({1 << 20}, group.rank() + 1, torch::kFloat);
    group.reduce(tensor, 1).wait();
    EXPECT_TRUE(tensor.eq(group.rank() == 1 ? 6 : group.rank() + 1).all().item<bool>());
  }));
}

TEST(TcpMessages, UnderOneTagDoNotWaitForThoseUnderAnother) {
  expect_no_errors(run_tcp_ranks(2, [](ProcessGroup& group) {
    const auto large = torch::arange(1 << 20, torch::kFloat);
    const auto small = torch::arange(8, torch::kFloat);
    if (group.rank() == 0) {
      auto first = group.send(large, 1, 1);
      auto second = group.send(small, 1, 2);
      second.wait();
      first.wait();
    } else {
      const auto got_small = torch::zeros_like(small);
      const auto got_large = torch::zeros_like(large);
      group.recv(got_small, 0, 2).wait();
      group.recv(got_large, 0, 1).wait();
      EXPECT_TRUE(got_small.equal(small));
      EXPECT_TRUE(got_large.equal(large));
    }
  }));
}

TEST(TcpFailure, RanksThatCallDifferentThingsAllSeeIt) {
  for (const int elements : {8, 1 << 20}) {
    const auto errors = run_tcp_ranks(3, [elements](ProcessGroup& group) {
      group.all_reduce(torch::ones({group.rank() == 1 ? elements - 1 : elements})).wait();
    });
    for (const auto& error : errors) {
      expect_error<MismatchError>(
          error, "rank 1 called all_reduce (Sum) of " + std::to_string(elements - 1) + " x Float");
    }
  }
}

TEST(TcpFailure, AReductionAndABroadcastDoNotFit) {
  const auto errors = run_tcp_ranks(2, [](ProcessGroup& group) {
    const auto tensor = torch::ones({1 << 20});
    if (group.rank() == 0) group.all_reduce(tensor).wait();
    if (group.rank() == 1) group.broadcast(tensor, 0).wait();
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "rank 1 called broadcast");
}

TEST(TcpFailure, ARankThatThrowsIsNamed) {
  const auto errors = run_tcp_ranks(2, [](ProcessGroup& group) {
    if (group.rank() == 1) throw std::runtime_error("bad luck");
    group.all_reduce(torch::ones({1 << 20})).wait();
  });
  expect_error<PeerLostError>(errors[0],
                              "rank 1 gave up: its process group was destroyed without close()");
}

TEST(TcpFailure, ARankThatHasClosedTheGroupIsNamed) {
  const auto errors = run_tcp_ranks(2, [](ProcessGroup& group) {
    if (group.rank() == 0) group.barrier();
    group.close();
  });
  // The barrier of rank 0 meets that of the other's close, and its own close meets nobody.
  expect_error<PeerLostError>(errors[0], "rank 1 has closed the group");
  EXPECT_EQ(text_of(errors[1]), "");
}

TEST(TcpFailure, ARankThatIsLateIsNamed) {
  const auto errors = run_tcp_ranks(2, [](ProcessGroup& group) {
    const auto tensor = torch::ones({1 << 20});
    if (group.rank() == 0) group.all_reduce(tensor).wait(std::chrono::milliseconds(200));
    group.recv(tensor, 0).wait();  // until rank 0 has given up
  });
  expect_error<TimeoutError>(errors[0], "rank 1 has not arrived");
  expect_error<PeerLostError>(errors[1], "rank 0 gave up");
}

TEST(TcpFailure, AMessageOfAnotherSizeIsRefused) {
  for (const int elements : {3, 1 << 20}) {
    const auto errors = run_tcp_ranks(2, [elements](ProcessGroup& group) {
      if (group.rank() == 0) group.send(torch::ones({elements}), 1, 4).wait();
      if (group.rank() == 1) group.recv(torch::ones({5}), 0, 4).wait();
    });
    expect_error<MismatchError>(errors[1], "rank 0 sent a message of " + std::to_string(elements));
  }
}

}  // namespace
}  // namespace lockstep::testing
