// SPDX-License-Identifier: BSD-3-Clause
// The gloo backend with ranks as threads: results, and the world failing.
#include "comm/gloo/make_process_group.h"

#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "comm/gloo/start_lock.h"
#include "support/collective_conformance.h"
#include "support/expected_errors.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/in_process_ranks.h"
#include "support/random_conformance.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Group = std::shared_ptr<ProcessGroup>;

std::vector<std::exception_ptr> run_gloo_ranks(int world_size,
                                               const std::function<void(const Group&)>& body,
                                               milliseconds timeout = kRankTimeout) {
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
  const auto make_group = [&](const LaunchEnvironment& environment) {
    return make_gloo_process_group(environment, kRankTimeout, rendezvous);
  };
  return run_groups(world_size, make_group, [&](Group group) {
    // A shorter timeout is that of the calls, as in `run_ranks`.
    const auto limit = limit_calls(*group, timeout);
    body(std::move(group));
  });
}

class GlooRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, GlooRanks, ::testing::Values(1, 2, 3, 4));

TEST_P(GlooRanks, CollectivesMatchSumsMadeByHandInRankOrder) {
  const auto errors = run_gloo_ranks(GetParam(), [](const Group& group) {
    EXPECT_EQ(group->backend(), Backend::Gloo);
    check_reduce(*group);
    check_reduce_scatter(*group);
    check_broadcast(*group);
    check_all_gather(*group);
    check_gather_and_scatter(*group);
    check_all_to_all(*group);
    check_pipelining(*group);
    check_barriers(*group);
    check_messages(*group);
    check_groups(*group);
    check_random_calls(*group, 60);
    group->close();
  });
  expect_no_errors(errors);
}

TEST_P(GlooRanks, ForksOfARankMayOnlyLetItsGroupGo) {
  const auto errors = run_gloo_ranks(
      GetParam(), [](const Group& group) { fork_and_work_on(const_cast<Group&>(group)); });
  expect_no_errors(errors);
}

// c10d's recorder of calls breaks where two groups of a process start work at the same moment. That
// is too rare to wait for, so this shows that nothing starts while somebody holds the lock.
TEST(GlooProcessGroup, StartsNothingWhileAnotherGroupOfTheProcessDoes) {
  const std::vector<std::function<void(ProcessGroup&)>> calls{
      [](ProcessGroup& group) { group.all_reduce(torch::ones({3})).wait(); },
      [](ProcessGroup& group) {
        const auto tensor = torch::ones({3});
        (group.rank() == 0 ? group.send(tensor, 1) : group.recv(tensor, 0)).wait();
      }};
  const auto errors = run_gloo_ranks(2, [&](const Group& group) {
    for (const auto& call : calls) {
      group->barrier();
      auto lock = group->rank() == 0 ? lock_gloo_start() : std::unique_lock<std::mutex>();
      std::atomic<bool> is_done{false};
      const std::jthread caller([&] {
        call(*group);
        is_done = true;
      });
      if (group->rank() != 0) continue;
      ASSERT_TRUE(lock.owns_lock());
      std::this_thread::sleep_for(milliseconds(100));
      EXPECT_FALSE(is_done);
      lock.unlock();
    }
    group->close();
  });
  expect_no_errors(errors);
}

TEST_P(GlooRanks, GroupsFollowOneAnotherAndMayLiveAtOnce) {
  const int ranks = GetParam();
  const std::string job = unique_job_id();
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([=] {
      std::vector<Group> kept;
      for (int i = 0; i < 6; ++i) {
        const auto group =
            make_gloo_process_group(fake_environment(rank, ranks, job), kRankTimeout, rendezvous);
        const auto tensor = torch::full({10}, i);
        group->all_reduce(tensor).wait();
        EXPECT_EQ(tensor[9].item<int>(), i * ranks);
        if (i % 2 == 0) kept.push_back(group);
        if (i % 2 != 0) group->close();
      }
      for (const auto& group : kept) group->close();
    });
  }
}

TEST(GlooFailure, AGroupThatFailedCanBeClosedAndDestroyedAtOnce) {
  Signal has_failed("until rank 0 had failed");
  const auto errors = run_gloo_ranks(
      2,
      [&](const Group& group) {
        if (group->rank() == 1) has_failed.wait();
        const auto use = [&] {
          group->barrier();
          group->close();
        };
        EXPECT_THROW(use(), CommError);
        has_failed.give();
        group->close();
      },
      milliseconds(500));
  for (const auto& error : errors) EXPECT_NE(error, nullptr);
}

TEST(GlooFailure, AMessageThatNobodySentIsMissedByClose) {
  const auto errors = run_gloo_ranks(2, [](const Group& group) {
    const auto tensor = torch::zeros({4});
    if (group->rank() == 1) {  // rank 0 has the time to hear of it
      const auto limit = limit_calls(*group, milliseconds(500));
      group->recv(tensor, 0, 3);
    }
    group->close();
  });
  ASSERT_NE(errors[0], nullptr);  // rank 1 does not come to the last meeting
  expect_error<TimeoutError>(errors[1], "rank 0 has not sent");
}

TEST(GlooFailure, RanksThatCallDifferentThingsAllSeeIt) {
  const auto errors = run_gloo_ranks(3, [](const Group& group) {
    const auto tensor = torch::ones({group->rank() == 1 ? 7 : 8});
    EXPECT_THROW(group->all_reduce(tensor).wait(), MismatchError);
    EXPECT_TRUE(torch::equal(tensor, torch::ones_like(tensor)));
    group->barrier();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "rank 1 called all_reduce (Sum) of 7 x Float");
  }
}

TEST(GlooFailure, RanksThatDoNotArriveAreNamedWhenTheDeadlinePasses) {
  // Ranks 0 and 2 must hear of each other within the time.
  expect_with_some_limit([](milliseconds limit) -> std::string {
    Signal have_failed("until ranks 0 and 2 had failed", 2);
    const auto errors = run_gloo_ranks(
        3,
        [&](const Group& group) {
          if (group->rank() == 1) return have_failed.wait();
          const SignalAtEnd end(have_failed);
          group->barrier();
        },
        limit);
    for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
      expect_error<CommError>(errors[rank], "");
      const std::string text = text_of(errors[rank]);
      if (text.find("rank 1 has not arrived") == std::string::npos) return text;
    }
    return "";
  });
}

TEST(GlooFailure, ARankThatThrowsIsNamed) {
  const auto errors = run_gloo_ranks(3, [](const Group& group) {
    group->barrier();
    if (group->rank() == 1) throw std::runtime_error("bad luck");
    group->all_reduce(torch::ones({10})).wait();
  });
  for (const int rank : {0, 2}) {
    expect_error<PeerLostError>(errors[static_cast<std::size_t>(rank)], "rank ");
    expect_error<PeerLostError>(errors[static_cast<std::size_t>(rank)], "gave up");
  }
}

// Rank 0 hears from rank 1 and gives up as well; whoever comes last must hear of the first.
TEST(GlooFailure, TheFirstReasonStays) {
  Signal are_gone("until ranks 0 and 1 had given up", 2);
  const auto errors = run_gloo_ranks(3, [&](const Group& group) {
    group->barrier();
    if (group->rank() == 2) {
      are_gone.wait();
      group->all_reduce(torch::ones({10})).wait();
      return;
    }
    try {
      if (group->rank() == 1) throw std::runtime_error("bad luck");
      group->all_reduce(torch::ones({10})).wait();
    } catch (...) {
      const_cast<Group&>(group).reset();  // gives up now, not when this function has ended
      are_gone.give();
      throw;
    }
  });
  expect_error<PeerLostError>(errors[0], "rank 1 gave up");
  expect_error<PeerLostError>(errors[2], "rank 1 gave up");
  EXPECT_EQ(text_of(errors[2]).find("rank 0 gave up"), std::string::npos) << text_of(errors[2]);
}

TEST(GlooProcessGroup, MovesWhatIsLongerThanAChunk) {
  const auto errors = run_gloo_ranks(3, [](const Group& group) {
    check_long_tensors(*group);
    group->close();
  });
  expect_no_errors(errors);
}

TEST(GlooFailure, AMessageOfAnotherSizeIsRefused) {
  const auto errors = run_gloo_ranks(2, [](const Group& group) {
    if (group->rank() == 0) group->send(torch::ones({3}), 1, 4).wait();
    if (group->rank() == 1) group->recv(torch::ones({5}), 0, 4).wait();
  });
  expect_error<MismatchError>(errors[1], "rank 0 sent a message of 3 x Float");
}

TEST(GlooFailure, AMessageThatDoesNotComeIsNamedWhenTheDeadlinePasses) {
  Signal is_over("until the other rank had given up");
  const auto errors = run_gloo_ranks(2, [&](const Group& group) {
    if (group->rank() == 0) return is_over.wait();
    const SignalAtEnd end(is_over);
    group->recv(torch::ones({5}), 0, 4).wait(milliseconds(200));
  });
  expect_error<TimeoutError>(errors[1], "rank 0 has not sent a message of 5 x Float with tag 4");
}

TEST(GlooMeeting, RanksThatDoNotComeAreNamed) {
  // The store must be there, and answer, within the time.
  expect_with_some_limit([](milliseconds limit) -> std::string {
    const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
    try {
      static_cast<void>(
          make_gloo_process_group(fake_environment(0, 3, unique_job_id()), limit, rendezvous));
      return "no error";
    } catch (const LaunchError& error) {
      const std::string text = error.what();
      return text.find("rank(s) 1, 2 of 3 did not come") == std::string::npos ? text : "";
    }
  });
}

// The store outlives what failed there, as torchrun's does.
TEST(GlooMeeting, ARankThatTriedAloneBeforeFindsTheOthers) {
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), true};
  c10d::TCPStoreOptions options;
  options.port = rendezvous.port;
  options.isServer = true;
  options.waitWorkers = false;
  const auto server = c10::make_intrusive<c10d::TCPStore>(rendezvous.host, options);
  const std::string job = unique_job_id();
  const auto meet = [&](int rank, milliseconds timeout) {
    return make_gloo_process_group(fake_environment(rank, 2, job), timeout, rendezvous);
  };
  for (const int rank : {1, 1, 0}) {
    EXPECT_THROW(static_cast<void>(meet(rank, milliseconds(300))), LaunchError);
  }
  std::vector<std::jthread> threads;
  for (const int rank : {0, 1}) {
    threads.emplace_back([&, rank] {
      const auto group = meet(rank, kRankTimeout);
      group->barrier();
      group->close();
    });
  }
}

/// The local addresses, as the kernel writes them, at which somebody listens on this port.
std::vector<std::string> listeners_on(std::uint16_t port) {
  char suffix[8];
  std::snprintf(suffix, sizeof(suffix), ":%04X", port);
  std::vector<std::string> addresses;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream lines(table);
    std::string line;
    while (std::getline(lines, line)) {
      std::istringstream words(line);
      std::string number, local, remote, state;
      words >> number >> local >> remote >> state;
      if (state == "0A" && local.ends_with(suffix)) addresses.push_back(local);
    }
  }
  return addresses;
}

TEST(GlooMeeting, ListensWhereRanksOfThisHostReachItAlone) {
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), false};
  std::vector<std::jthread> threads;
  const std::string job = unique_job_id();
  for (const int rank : {0, 1}) {
    threads.emplace_back([&, rank] {
      const auto group =
          make_gloo_process_group(fake_environment(rank, 2, job), kRankTimeout, rendezvous);
      if (rank == 0) {
        const auto found = listeners_on(rendezvous.port);
        ASSERT_EQ(found.size(), 1U);
        EXPECT_TRUE(found.front().starts_with("0100007F:")) << found.front();
      }
      group->close();
    });
  }
}

TEST(GlooMeeting, NobodyAtTheMeetingPointIsAnErrorThatNamesIt) {
  const GlooRendezvous rendezvous{"127.0.0.1", free_port(), true};
  try {
    static_cast<void>(make_gloo_process_group(fake_environment(1, 2, unique_job_id()),
                                              milliseconds(1500), rendezvous));
    ADD_FAILURE() << "no error";
  } catch (const LaunchError& error) {
    EXPECT_NE(std::string(error.what()).find("127.0.0.1:" + std::to_string(rendezvous.port)),
              std::string::npos)
        << error.what();
  }
}

TEST(GlooRendezvousVariables, AreChecked) {
  const auto with = [](const char* host, const char* port) {
    host == nullptr ? ::unsetenv("MASTER_ADDR") : ::setenv("MASTER_ADDR", host, 1);
    port == nullptr ? ::unsetenv("MASTER_PORT") : ::setenv("MASTER_PORT", port, 1);
    return GlooRendezvous::detect();
  };
  EXPECT_EQ(with("somewhere", "29500").port, 29500);
  EXPECT_EQ(with("somewhere", "29500").host, "somewhere");
  EXPECT_THROW(with(nullptr, "29500"), LaunchError);
  for (const char* garbage : {"", "0", "x", "70000", "1x", "-1"}) {
    EXPECT_THROW(with("somewhere", garbage), LaunchError) << garbage;
  }
  EXPECT_THROW(with("somewhere", nullptr), LaunchError);
  ::unsetenv("MASTER_ADDR");
}

}  // namespace
}  // namespace lockstep::testing
