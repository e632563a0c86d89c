// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/stop_request.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

TEST(StopRequest, ASignalIsSeenByAllRanksAfterTheSameStep) {
  std::array<int, 3> last{};
  expect_no_errors(run_ranks(3, [&](const std::shared_ptr<ProcessGroup>& group) {
    static std::optional<StopRequest> of_rank[3];
    // One after the other: handlers belong to the process.
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == group->rank()) of_rank[rank].emplace(*group);
      group->barrier();
    }
    StopRequest& stop = *of_rank[group->rank()];
    int step = 0;
    while (!stop.requested() && step < 1000) {
      if (group->rank() == 1 && step == 7) ::kill(::getpid(), SIGTERM);
      ++step;
    }
    EXPECT_TRUE(stop.requested());
    last[static_cast<std::size_t>(group->rank())] = step;
    for (int rank = 2; rank >= 0; --rank) {
      if (rank == group->rank()) of_rank[rank].reset();
      group->barrier();
    }
    group->close();
  }));
  EXPECT_GE(last[0], 7);
  EXPECT_LT(last[0], 1000);
  EXPECT_EQ(last[1], last[0]);
  EXPECT_EQ(last[2], last[0]);
}

TEST(StopRequest, AnEarlierSignalIsNoRequestAndHandlersComeBack) {
  static int calls = 0;
  struct sigaction own {};
  own.sa_handler = [](int) { ++calls; };
  struct sigaction before {};
  ::sigaction(SIGUSR1, &own, &before);
  ::raise(SIGUSR1);
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    {
      StopRequest stop(*group);
      EXPECT_FALSE(stop.requested());
      ::raise(SIGUSR1);  // of this thread: it is there when the call returns
      EXPECT_TRUE(stop.requested());
      EXPECT_EQ(calls, 1);
    }
    StopRequest again(*group);
    EXPECT_FALSE(again.requested());
    group->close();
  });
  ::raise(SIGUSR1);
  EXPECT_EQ(calls, 2);
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST(StopRequest, AForkEndsByTheSignal) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    StopRequest stop(*group);
    const pid_t child = ::fork();
    if (child == 0) {
      limit_child();
      ::raise(SIGTERM);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    EXPECT_FALSE(stop.requested());
    group->close();
  });
}

TEST(StopRequest, SignalsWithoutAHandlerAreRefused) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    for (const int signal : {SIGKILL, 0, -1, 1000}) {
      EXPECT_THROW(StopRequest(*group, StopRequestOptions().signals({SIGUSR1, signal})),
                   c10::Error);
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
