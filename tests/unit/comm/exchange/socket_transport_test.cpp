// SPDX-License-Identifier: BSD-3-Clause
// The collectives that backends share, over a transport that has nothing but sockets.
#include "support/socket_transport.h"

#include <gtest/gtest.h>
#include <lockstep/core/error.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/group/group_core.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/socket_backend.h"

namespace lockstep::testing {
namespace {

std::shared_ptr<ProcessGroup> make_socket_group(const LaunchEnvironment& environment) {
  // What a group calls its backend is not what is tested.
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Mpi, environment, kRankTimeout,
                      [](GroupContext& group) { return std::make_unique<SocketBackend>(group); }));
}

std::vector<std::exception_ptr> run_socket_ranks(int world_size,
                                                 const std::function<void(ProcessGroup&)>& body) {
  return run_closing_groups(world_size, make_socket_group, body);
}

class SocketRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, SocketRanks, ::testing::Values(1, 2, 3));

TEST_P(SocketRanks, DoEverythingThatABackendMust) {
  const auto errors = run_socket_ranks(GetParam(), [](ProcessGroup& group) {
    check_everything(group);
    check_long_tensors(group);
  });
  expect_no_errors(errors);
}

TEST(SocketFailure, RanksThatCallDifferentThingsAllSeeIt) {
  const auto errors = run_socket_ranks(3, [](ProcessGroup& group) {
    group.all_reduce(torch::ones({group.rank() == 1 ? 7 : 8})).wait();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 called all_reduce (Sum) of 7 x Float");
  }
}

TEST(SocketFailure, AnAllToAllWhoseSizesDoNotFitWritesNothing) {
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    const auto input = torch::ones({4});
    const auto output = torch::zeros({group.rank() == 0 ? 5 : 4});
    const std::vector<std::int64_t> expected{2, output.numel() - 2};
    EXPECT_THROW(group.all_to_all(output, input, expected, {2, 2}).wait(), MismatchError);
    EXPECT_EQ(output.count_nonzero().item<std::int64_t>(), 0);
    group.barrier();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 sends 8 bytes to rank 0, which expects 12");
  }
}

TEST(SocketFailure, ARankThatThrowsIsNamed) {
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    if (group.rank() == 1) throw std::runtime_error("bad luck");
    group.all_reduce(torch::ones({10})).wait();
  });
  expect_error<PeerLostError>(errors[0], "rank 1 gave up: it left");
}

TEST(SocketFailure, ARankThatIsLateIsNamed) {
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    const auto tensor = torch::ones({2});
    if (group.rank() == 0) group.all_reduce(tensor).wait(std::chrono::milliseconds(200));
    group.recv(tensor, 0).wait();  // until rank 0 has given up
  });
  expect_error<TimeoutError>(errors[0], "rank 1 has not arrived");
  expect_error<PeerLostError>(errors[1], "rank 0 gave up");
}

TEST(SocketFailure, AMessageOfAnotherSizeIsRefused) {
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    if (group.rank() == 0) group.send(torch::ones({3}), 1, 4).wait();
    if (group.rank() == 1) group.recv(torch::ones({5}), 0, 4).wait();
  });
  expect_error<MismatchError>(errors[1], "rank 0 sent a message of 3 x Float");
}

TEST(SocketFailure, AllocationsOfDifferentSizesAreAMismatchOnAllRanks) {
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    static_cast<void>(group.allocate({group.rank() == 1 ? 7 : 8}, torch::kFloat));
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 called allocate of 28 bytes");
  }
}

TEST(SocketFailure, AnAllocationThatNoRankCanMakeLeavesTheGroupUsable) {
  constexpr std::int64_t kTooMuch = std::int64_t{1} << 60;
  const auto errors = run_socket_ranks(2, [](ProcessGroup& group) {
    EXPECT_THROW(static_cast<void>(group.allocate({kTooMuch}, torch::kByte)), CommError);
    group.barrier();
  });
  expect_no_errors(errors);
}

}  // namespace
}  // namespace lockstep::testing
