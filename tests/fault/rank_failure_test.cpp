// SPDX-License-Identifier: BSD-3-Clause
// Ranks as processes, one of which dies, stops or throws. The program starts itself again as the
// ranks, with the variables that torchrun sets, so that no launcher stands between the signal and
// what the survivors see.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <lockstep/pipeline/pipeline.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "native/posix/peer_process.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/small_nets.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPeerLost = 10;
constexpr int kTimeout = 11;

// --- what a rank does, by name ---

ProcessGroupOptions with_timeout(int milliseconds) {
  return ProcessGroupOptions().timeout(std::chrono::milliseconds(milliseconds));
}

constexpr int kCulprit = 1;

/// `on_witness`: what the other ranks do when its time has come.
void train_until_told(
    const std::shared_ptr<ProcessGroup>& group, const std::function<void()>& on_culprit,
    const std::function<void()>& on_witness = [] {}) {
  DistributedDataParallel<ConvNet> model(
      ConvNet(), group, DistributedDataParallelOptions().first_bucket_cap_bytes(100));
  for (int step = 0; step < 1000; ++step) {
    if (step == 5) group->rank() == kCulprit ? on_culprit() : on_witness();
    train(model, 1, group->rank(), group->size());
  }
  group->close();
}

/// The culprit stops itself; only when it has does the time of the others begin to run.
void train_until_stopped(const std::shared_ptr<ProcessGroup>& group) {
  const auto pids = torch::zeros({group->size()}, torch::kLong);
  group->all_gather(pids, torch::full({1}, static_cast<std::int64_t>(::getpid()), torch::kLong))
      .wait();
  const native::PeerProcess culprit(static_cast<pid_t>(pids[kCulprit].item<std::int64_t>()),
                                    native::PeerProcess::own_pid_namespace());
  std::unique_ptr<CallScope> limit;
  train_until_told(
      group, [] { ::raise(SIGSTOP); },
      [&] {
        std::string state;
        static_cast<void>(happens([&] {
          state = culprit.state();
          return state == "stopped" || state == "dead";
        }));
        if (state != "stopped") {
          throw std::runtime_error("rank 1 was to stop, and this test waited for that: it is " +
                                   state);
        }
        limit.reset(
            new CallScope(group->with(CallOptions().timeout(std::chrono::milliseconds(700)))));
      });
}

void train_and_fork(const std::shared_ptr<ProcessGroup>& group) {
  static std::shared_ptr<ProcessGroup> kept;  // destroyed by exit() alone
  kept = group;
  DistributedDataParallel<ConvNet> model(ConvNet(), group);
  for (const ForkEnd end : kForkEnds) {
    train(model, 1, group->rank(), group->size());
    if (fork_that_ends(end)) return;
  }
  train(model, 1, group->rank(), group->size());
  group->close();
}

/// The culprit's stage ends its process in the middle of a step.
void train_pipeline_until_killed(const std::shared_ptr<ProcessGroup>& group) {
  torch::nn::Linear net(64, 64);
  int calls = 0;
  const auto stage = [&](const torch::Tensor& x) {
    if (group->rank() == kCulprit && ++calls == 20) ::raise(SIGKILL);
    return net(x);
  };
  pipeline::Pipeline pipeline(group, {pipeline::Stage(stage, net)},
                              pipeline::PipelineOptions().microbatches(6));
  const auto data = torch::ones({6, 64});
  for (int step = 0; step < 1000; ++step) {
    static_cast<void>(pipeline.step(
        data, data,
        [](const torch::Tensor& output, const torch::Tensor&) { return output.sum(); }));
  }
}

const std::map<std::string, std::function<void()>> kPrograms{
    {"pipeline_kill", [] { train_pipeline_until_killed(init_process_group()); }},
    {"kill", [] { train_until_told(init_process_group(), [] { ::raise(SIGKILL); }); }},
    {"stop", [] { train_until_stopped(init_process_group()); }},
    {"throw",
     [] { train_until_told(init_process_group(), [] { throw std::runtime_error("bad luck"); }); }},
    {"exit", [] { train_until_told(init_process_group(), [] { std::_Exit(0); }); }},
    {"fork", [] { train_and_fork(init_process_group()); }},
    {"gloo_fork",
     [] { train_and_fork(init_process_group(ProcessGroupOptions().backend(Backend::Gloo))); }},
    {"gloo_kill",
     [] {
       const auto group = init_process_group(ProcessGroupOptions().backend(Backend::Gloo));
       const auto tensor = torch::ones({100000});
       for (int step = 0; step < 100000; ++step) {
         if (group->rank() == 1 && step == 20) ::raise(SIGKILL);
         group->all_reduce(tensor).wait();
       }
     }},
    {"die_before_meeting",
     [] {
       if (std::string(std::getenv("RANK")) == "1") ::raise(SIGKILL);
       static_cast<void>(init_process_group(with_timeout(700)));
     }},
};

int run_program(const std::string& name) {
  try {
    kPrograms.at(name)();
    return 0;
  } catch (const PeerLostError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return kPeerLost;
  } catch (const TimeoutError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return kTimeout;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

// --- the test's side ---

struct Ended {
  int status = -1;   ///< as waitpid gives it
  std::string text;  ///< stderr
};

// Above what a busy machine takes, below the five minutes that ranks wait for one another: whoever
// ends by then did not wait for the deadline.
constexpr std::chrono::seconds kAtOnce{120};

class Ranks {
 public:
  Ranks(const std::string& program, int count) : text_folder_(make_folder()) {
    for (int rank = 0; rank < count; ++rank) start(program, rank, count);
  }
  ~Ranks() {
    std::erase(pids_, kReaped);
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    std::filesystem::remove_all(text_folder_);
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  /// Waits for one rank, once; a rank that does not end in time has status -1.
  Ended wait(int rank, std::chrono::seconds limit = kAtOnce) {
    const auto start = Clock::now();
    Ended ended;
    auto& pid = pids_[static_cast<std::size_t>(rank)];
    if (pid == kReaped) throw std::logic_error("this rank was waited for before");
    while (::waitpid(pid, &ended.status, WNOHANG) == 0) {
      if (Clock::now() - start > limit) return Ended{};
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    pid = kReaped;
    std::FILE* file = std::fopen(text_file(rank).c_str(), "r");
    for (int c = 0; file != nullptr && (c = std::fgetc(file)) != EOF;)
      ended.text.push_back(static_cast<char>(c));
    if (file != nullptr) std::fclose(file);
    return ended;
  }

 private:
  static constexpr pid_t kReaped = -1;  // the number may be another process's by now

  static std::string make_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-XXXXXX").string();
    return ::mkdtemp(name.data());
  }
  [[nodiscard]] std::string text_file(int rank) const {
    return text_folder_ + "/" + std::to_string(rank);
  }

  void start(const std::string& program, int rank, int count) {
    std::vector<std::string> variables{"RANK=" + std::to_string(rank),
                                       "WORLD_SIZE=" + std::to_string(count),
                                       "LOCAL_RANK=" + std::to_string(rank),
                                       "LOCAL_WORLD_SIZE=" + std::to_string(count),
                                       "MASTER_ADDR=localhost",
                                       "MASTER_PORT=" + std::to_string(port_),
                                       "LOCKSTEP_JOB_ID=" + text_folder_,
                                       "OMP_NUM_THREADS=1"};
    // What c10d still works on, and what a fork must not end, is left in memory on purpose.
    const bool leaves_things = program == "gloo_kill" || program.ends_with("fork");
    if (leaves_things) variables.emplace_back("ASAN_OPTIONS=detect_leaks=0");
    std::vector<char*> environment;
    for (auto& variable : variables) environment.push_back(variable.data());
    environment.push_back(nullptr);
    std::array<std::string, 3> words{"/proc/self/exe", "--program", program};
    std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, text_file(rank).c_str(),
                                       O_WRONLY | O_CREAT, 0600);
    pid_t pid = 0;
    ASSERT_EQ(::posix_spawn(&pid, words[0].c_str(), &actions, nullptr, arguments.data(),
                            environment.data()),
              0);
    ::posix_spawn_file_actions_destroy(&actions);
    pids_.push_back(pid);
  }

  std::uint16_t port_ = free_port();
  std::string text_folder_;
  std::vector<pid_t> pids_;
};

bool ended_with(const Ended& ended, int code) {
  return ended.status != -1 && WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == code;
}

class RankFailure : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, RankFailure, ::testing::Values(2, 3));

/// Rank 1 is killed, and the others end with an error that has all of these texts.
void expect_killed_rank_is_named(const char* scenario, int world_size,
                                 const std::vector<const char*>& texts) {
  Ranks ranks(scenario, world_size);
  const Ended killed = ranks.wait(1);
  EXPECT_TRUE(WIFSIGNALED(killed.status) && WTERMSIG(killed.status) == SIGKILL);
  for (int rank = 0; rank < world_size; ++rank) {
    if (rank == 1) continue;
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, kPeerLost)) << ended.status << ended.text;
    for (const char* text : texts) {
      EXPECT_NE(ended.text.find(text), std::string::npos) << ended.text;
    }
  }
}

TEST_P(RankFailure, AKilledRankIsNamedBySurvivorsAtOnce) {
  expect_killed_rank_is_named("kill", GetParam(), {"rank 1 (pid"});
}

TEST_P(RankFailure, AKilledRankOfAPipelineIsNamedWithItsStage) {
  expect_killed_rank_is_named("pipeline_kill", GetParam(), {"rank 1 (pid", "rank 1 has stage 1"});
}

TEST_P(RankFailure, AStoppedRankIsNamedWhenTheDeadlinePasses) {
  Ranks ranks("stop", GetParam());
  for (int rank = 0; rank < GetParam(); ++rank) {
    if (rank == 1) continue;
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, kTimeout) || ended_with(ended, kPeerLost)) << ended.text;
    // Whoever times out first names the stopped rank; another may then hear from that one.
    EXPECT_NE(ended.text.find("rank 1 (pid"), std::string::npos) << ended.text;
    EXPECT_NE(ended.text.find("stopped"), std::string::npos) << ended.text;
  }
}

TEST_P(RankFailure, ARankThatThrowsIsNamed) {
  Ranks ranks("throw", GetParam());
  const Ended thrower = ranks.wait(1);
  EXPECT_TRUE(ended_with(thrower, 1)) << thrower.text;
  EXPECT_NE(thrower.text.find("bad luck"), std::string::npos);
  for (int rank = 0; rank < GetParam(); ++rank) {
    if (rank == 1) continue;
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, kPeerLost)) << ended.text;
  }
}

#ifdef LOCKSTEP_TEST_GLOO
TEST_P(RankFailure, AKilledRankBreaksTheConnectionsOfGlooAtOnce) {
  Ranks ranks("gloo_kill", GetParam());
  static_cast<void>(ranks.wait(1));
  for (int rank = 0; rank < GetParam(); ++rank) {
    if (rank == 1) continue;
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, kPeerLost)) << ended.status << ended.text;
  }
}

TEST(RankFailure, ForksOfARankOverGlooEndWithoutAWordToTheOthers) {
  Ranks ranks("gloo_fork", 2);
  for (const int rank : {0, 1}) {
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, 0)) << ended.status << ended.text;
  }
}
#endif

TEST(RankFailure, ForksOfARankEndWithoutAWordToTheOthers) {
  Ranks ranks("fork", 2);
  for (const int rank : {0, 1}) {
    const Ended ended = ranks.wait(rank);
    EXPECT_TRUE(ended_with(ended, 0)) << ended.status << ended.text;
  }
}

TEST_P(RankFailure, ARankThatExitsWithoutAWordIsNamed) {
  Ranks ranks("exit", GetParam());
  const Ended ended = ranks.wait(0);
  EXPECT_TRUE(ended_with(ended, kPeerLost)) << ended.text;
  EXPECT_NE(ended.text.find("rank 1"), std::string::npos) << ended.text;
}

TEST_P(RankFailure, ARankThatDiesBeforeTheMeetingIsNamed) {
  Ranks ranks("die_before_meeting", GetParam());
  const Ended ended = ranks.wait(0);
  EXPECT_TRUE(ended_with(ended, 1)) << ended.text;
  // On a busy machine rank 2 may not have come either.
  EXPECT_NE(ended.text.find("rank(s) 1"), std::string::npos) << ended.text;
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--program") {
    return lockstep::testing::run_program(argv[2]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
