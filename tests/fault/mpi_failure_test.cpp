// SPDX-License-Identifier: BSD-3-Clause
// What ranks see over MPI when one of them dies, stays away, throws or calls something else. Such
// jobs end without MPI_Finalize, so each runs under an mpirun of its own, which lets survivors
// live.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <mpi.h>
#include <signal.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "comm/group/group_core.h"
#include "native/posix/peer_process.h"
#include "support/forks.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using Group = std::shared_ptr<ProcessGroup>;

/// Of a message under the library's own tag, as backends send them that are built on a group.
void wait_for(const GroupCore::PendingCall& message) {
  message.group->wait_for(message.sequence, std::nullopt);
}

// --- what a rank does, by name ---

Group init(const std::string& backend, milliseconds timeout = std::chrono::seconds(60)) {
  return init_process_group(ProcessGroupOptions()
                                .backend(backend == "mpi" ? Backend::Mpi : Backend::Hierarchical)
                                .timeout(timeout));
}

/// The ranks, which are all on this machine.
std::vector<native::PeerProcess> processes_of(ProcessGroup& group) {
  const auto pids = torch::zeros({group.size()}, torch::kLong);
  group.all_gather(pids, torch::full({1}, static_cast<std::int64_t>(::getpid()), torch::kLong))
      .wait();
  std::vector<native::PeerProcess> processes;
  for (int rank = 0; rank < group.size(); ++rank) {
    processes.emplace_back(static_cast<pid_t>(pids[rank].item<std::int64_t>()),
                           native::PeerProcess::own_pid_namespace());
  }
  return processes;
}

void reduce_forever(const Group& group) {
  const auto tensor = torch::ones({100000});
  for (int i = 0; i < 1'000'000; ++i) group->all_reduce(tensor).wait();
}

const std::map<std::string, std::function<void(const std::string& backend)>> kPrograms{
    {"message",
     [](const std::string& backend) {
       const auto group = init(backend);
       if (group->rank() == 0) group->send(torch::ones({3}), 1, 7).wait();
       if (group->rank() == 1) group->recv(torch::ones({4}), 0, 7).wait();
       group->barrier();
     }},
    {"late",
     [](const std::string& backend) {
       const auto group = init(backend);
       const auto others = processes_of(*group);
       if (group->rank() == 1) {
         const bool are_gone =
             happens([&] { return !others[0].is_alive() && !others[2].is_alive(); });
         if (!are_gone) throw std::runtime_error("the others wait without end");
       }
       const auto limit = group->with(CallOptions().timeout(milliseconds(600)));
       group->all_reduce(torch::ones({1})).wait();
     }},
    {"throw",
     [](const std::string& backend) {
       const auto group = init(backend);
       group->barrier();
       if (group->rank() == 1) throw std::runtime_error("bad luck");
       reduce_forever(group);
     }},
    {"leave",
     [](const std::string& backend) {
       const auto group = init(backend);
       const auto tensor = torch::ones({100});
       int done = 0;
       try {
         for (; done < 300; ++done) group->all_reduce(tensor).wait();
         if (group->rank() == 1) throw std::runtime_error("bad luck");
         group->all_reduce(tensor).wait();
       } catch (const std::exception& error) {
         throw std::runtime_error("after " + std::to_string(done) + " calls: " + error.what());
       }
     }},
    {"own",
     [](const std::string& backend) {
       const auto group = init(backend);
       const auto first = torch::full({3}, 1), second = torch::full({4}, 2);
       // The library's tag is the largest that MPI promises, and none of a program's.
       if (group->rank() == 0) {
         group->send(first, 1, 32766).wait();
         wait_for(group->core().send_own(second, 1));
       } else {
         first.zero_(), second.zero_();
         wait_for(group->core().receive_own(second, 0));
         group->recv(first, 0, 32766).wait();
         if (first[2].item<int>() != 1 || second[3].item<int>() != 2) {
           throw std::runtime_error("other bytes came");
         }
       }
       group->close();
     }},
    {"fork",
     [](const std::string& backend) {
       static Group kept;  // destroyed by exit() alone
       const auto group = kept = init(backend);
       for (const ForkEnd end : kForkEnds) {
         const auto work = group->all_reduce(torch::ones({100}));
         if (fork_that_ends(end)) return;
         group->barrier();
       }
       group->close();
     }},
    {"finalize",
     [](const std::string& backend) {
       auto group = init(backend);
       group->barrier();
       auto work = group->all_reduce(torch::ones({100}));
       ::MPI_Finalize();
       std::string seen;
       const auto note = [&](const std::function<void()>& call) {
         try {
           call();
           seen += "no error; ";
         } catch (const c10::Error& error) {
           seen += std::string(error.what_without_backtrace()) + "; ";
         }
       };
       note([&] { work.wait(); });
       note([&] { group->barrier(); });
       note([&] { group->close(); });
       group.reset();
       throw std::runtime_error(seen);
     }},
    {"forget",
     [](const std::string& backend) {
       auto group = init(backend);
       group->barrier();
       ::MPI_Finalize();
       group.reset();
     }},
    {"exit",
     [](const std::string& backend) {
       const auto group = init(backend);
       const auto ranks = processes_of(*group);
       group->barrier();
       if (group->rank() == 1) std::exit(0);  // destroys no local variable
       const bool has_ended = happens([&] { return !ranks[1].is_alive(); });
       throw std::runtime_error(has_ended ? "rank 1 has ended" : "rank 1 still runs");
     }},
    {"watch",
     [](const std::string& backend) {
       auto group = init(backend);
       const auto watch = group->core().backend().peer_watch();
       if (!watch) throw std::runtime_error("nobody is watched");
       group->barrier();
       if (group->rank() == 1) throw std::runtime_error("bad luck");
       const auto start = std::chrono::steady_clock::now();
       std::string seen;
       while (seen.empty()) {
         seen = watch();
         if (std::chrono::steady_clock::now() - start > std::chrono::seconds(60)) break;
         std::this_thread::sleep_for(milliseconds(5));
       }
       throw std::runtime_error("by the watch alone: " + seen);
     }},
    {"kill",
     [](const std::string& backend) {
       const auto group = init(backend);
       group->barrier();
       if (group->rank() == 1) ::raise(SIGKILL);
       reduce_forever(group);
     }},
    {"silent",
     [](const std::string& backend) {
       const auto group = init(backend);
       group->barrier();
       const milliseconds patience(std::stol(std::getenv("LOCKSTEP_TEST_LIMIT_MS")));
       const auto limit = group->with(CallOptions().timeout(patience));
       const auto tensor = torch::ones({1000000});
       auto work = group->all_reduce(tensor);
       if (group->rank() == 1) ::raise(SIGKILL);  // everybody has heard that it is here
       work.wait();
     }},
    {"mismatch",
     [](const std::string& backend) {
       const auto group = init(backend);
       const auto tensor = torch::ones({4});
       if (group->rank() == 1) {
         group->broadcast(tensor).wait();
       } else {
         group->all_reduce(tensor).wait();
       }
     }},
};

int run_program(const std::string& name, const std::string& backend) {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const pid_t own_process = ::getpid();
  std::string text = "no error";
  try {
    kPrograms.at(name)(backend);
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    text = error.what();
  }
  if (::getpid() != own_process) return text == "no error" ? 0 : 1;  // a child has nothing to say
  std::fprintf(stderr, "rank %s saw: %s\n", rank, text.c_str());
  return 0;
}

// --- the test's side ---

struct Job {
  int ranks;
  std::string hosts;     ///< empty: the launcher's
  std::string launch{};  ///< what starts the program on each rank
};

/// Ranks that see what torchrun sets, so that no MPI connects them.
const std::string kAsTorchrun =
    "env LOCKSTEP_LAUNCHER=torchrun GLOO_SOCKET_IFNAME=lo sh -c "
    "'RANK=$OMPI_COMM_WORLD_RANK LOCAL_RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE "
    "LOCAL_WORLD_SIZE=$OMPI_COMM_WORLD_SIZE exec \"$@\"' sh ";

// Far longer than any job takes, also on a busy machine; far shorter than for ever.
constexpr int kJobSeconds = 120;
constexpr int kStatusOfTimeout = 124;

/// Everything that the ranks of a job wrote. Fails where the job did not end by itself.
std::string run_job(const std::string& program, const std::string& backend, const Job& job) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string hosts = job.hosts.empty() ? "" : "LOCKSTEP_FAKE_HOSTS=" + job.hosts + " ";
  const std::string command = hosts + "timeout " + std::to_string(kJobSeconds) +
                              " " LOCKSTEP_TEST_MPIRUN " " + std::to_string(job.ranks) +
                              " --continuous " + job.launch + self + " --program " + program + " " +
                              backend + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string text;
  std::array<char, 4096> buffer{};
  for (std::size_t count = 0; (count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    text.append(buffer.data(), count);
  }
  const int status = ::pclose(pipe);
  EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == kStatusOfTimeout)
      << "the job did not end; it wrote: " << text;
  return text;
}

/// What one rank saw, up to the end of its line.
std::string seen_by(int rank, const std::string& output) {
  const std::string start = "rank " + std::to_string(rank) + " saw: ";
  const auto place = output.find(start);
  if (place == std::string::npos) return "";
  return output.substr(place + start.size(), output.find('\n', place) - place - start.size());
}

void expect_part(const std::string& seen, const std::string& part, const std::string& output) {
  EXPECT_NE(seen.find(part), std::string::npos) << "looked for: " << part << "\nin: " << output;
}

class MpiFailure : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Backends, MpiFailure, ::testing::Values("mpi", "hierarchical"));

TEST_P(MpiFailure, AMessageOfAnotherSizeIsRefused) {
  const std::string output = run_job("message", GetParam(), {2, "a,b"});
  expect_part(seen_by(1, output),
              "rank 0 sent a message of 3 x Float with tag 7, this rank expects a message of 4 x "
              "Float with tag 7",
              output);
}

TEST_P(MpiFailure, ARankThatDoesNotComeIsNamed) {
  const std::string output = run_job("late", GetParam(), {3, "a,a,b"});
  for (const int rank : {0, 2}) {
    // Whoever times out first tells the other.
    expect_part(seen_by(rank, output), "rank 1 has not arrived", output);
  }
  expect_part(seen_by(0, output) + seen_by(2, output), " s, waiting since ", output);
}

TEST_P(MpiFailure, ARankThatThrowsIsNamed) {
  const std::string output = run_job("throw", GetParam(), {3, "a,a,b"});
  expect_part(seen_by(1, output), "bad luck", output);
  for (const int rank : {0, 2}) expect_part(seen_by(rank, output), "rank 1", output);
}

// Its word must not overtake what it sent for calls that it completed.
TEST_P(MpiFailure, WhatARankCompletedBeforeItLeftIsCompletedByTheOthers) {
  const std::string output = run_job("leave", GetParam(), {3, "a,b,b"});
  for (const int rank : {0, 2}) {
    expect_part(seen_by(rank, output), "after 300 calls: ", output);
    expect_part(seen_by(rank, output), "gave up", output);
  }
}

TEST_P(MpiFailure, RanksThatCallDifferentThingsAllSeeIt) {
  const std::string output = run_job("mismatch", GetParam(), {3, "a,a,b"});
  for (const int rank : {0, 1, 2}) {
    expect_part(seen_by(rank, output), "rank 1 called broadcast from rank 0 of 4 x Float", output);
  }
}

TEST_P(MpiFailure, MessagesOfTheLibraryDoNotMeetThoseOfAProgram) {
  const std::string output = run_job("own", GetParam(), {2, "a,b"});
  for (const int rank : {0, 1}) expect_part(seen_by(rank, output), "no error", output);
}

TEST_P(MpiFailure, ForksOfARankEndWithoutAWordToTheOthers) {
  const std::string output = run_job("fork", GetParam(), {2, "a,b"});
  for (const int rank : {0, 1}) expect_part(seen_by(rank, output), "no error", output);
}

TEST_P(MpiFailure, AGroupThatOutlivesMpiThrowsInsteadOfEndingTheProgram) {
  const std::string output = run_job("finalize", GetParam(), {2, "a,b"});
  for (const int rank : {0, 1}) {
    expect_part(seen_by(rank, output), "close() of its process groups comes before MPI_Finalize",
                output);
  }
  const std::string forgotten = run_job("forget", GetParam(), {2, "a,b"});
  for (const int rank : {0, 1}) expect_part(seen_by(rank, forgotten), "no error", forgotten);
}

// It must not wait in MPI_Finalize for ranks that wait for it.
TEST_P(MpiFailure, ARankThatExitsInTheMiddleEnds) {
  const std::string output = run_job("exit", GetParam(), {2, "a,b"});
  expect_part(seen_by(0, output), "rank 1 has ended", output);
}

TEST(MpiFailure, ARankOfThisHostThatGivesUpIsSeenWithoutACall) {
  const std::string output = run_job("watch", "hierarchical", {2, "a,a"});
  expect_part(seen_by(0, output), "by the watch alone: rank 1 (pid", output);
  expect_part(seen_by(0, output), "gave up", output);
}

// Alone on its host, and gone after it said what it was about to do.
TEST_P(MpiFailure, AKilledRankThatHadArrivedIsNamed) {
  // MPI tells nobody: the others ask at the deadline. A connection of our own ends with the
  // process.
  const std::string expected = std::string(GetParam()) == "hierarchical"
                                   ? "rank 1 is gone"
                                   : "rank 1 has arrived, but does not answer";
  // All ranks must have arrived when the time is over; on a busy machine they come one by one.
  const auto attempt = [&](milliseconds limit) -> std::string {
    const std::string launch = "env LOCKSTEP_TEST_LIMIT_MS=" + std::to_string(limit.count()) + " ";
    const std::string output = run_job("silent", GetParam(), {3, "a,b,c", launch});
    for (const int rank : {0, 2}) {
      if (seen_by(rank, output).find(expected) == std::string::npos) return output;
    }
    return "";
  };
  expect_with_some_limit(attempt, milliseconds(2000));
}

TEST(MpiFailure, AKilledRankIsNamedAtOnceByTheRanksOfAllHosts) {
  const std::string output = run_job("kill", "hierarchical", {3, "a,a,b"});
  expect_part(seen_by(0, output), ": rank 1 ", output);
  expect_part(seen_by(2, output), "rank 1 is gone", output);
}

#ifdef LOCKSTEP_TEST_GLOO
// All connections of a rank that dies break at once. Those of its host may also see the process.
TEST(HostsOverTcp, AKilledRankIsNamedByTheRanksOfItsHostAndOfOthers) {
  for (const auto& [hosts, witness, other] :
       {std::tuple("a,a,b", 0, 2), std::tuple("a,b,b", 2, 0)}) {
    const std::string output = run_job("kill", "hierarchical", {3, hosts, kAsTorchrun});
    expect_part(seen_by(witness, output), "(Hierarchical) failed on rank", output);
    expect_part(seen_by(witness, output), ": rank 1 ", output);
    expect_part(seen_by(other, output), "rank 1 is gone", output);
  }
}

TEST(HostsOverGloo, AKilledRankIsNamedByTheRanksOfItsHostAndOfOthers) {
  for (const auto& [hosts, witness, other] :
       {std::tuple("a,a,b", 0, 2), std::tuple("a,b,b", 2, 0)}) {
    const std::string output = run_job(
        "kill", "hierarchical", {3, hosts, "env LOCKSTEP_BETWEEN_HOSTS=gloo " + kAsTorchrun});
    expect_part(seen_by(witness, output), "rank 1 (pid", output);
    expect_part(seen_by(witness, output), "died", output);
    expect_part(seen_by(other, output), "rank " + std::to_string(witness) + " gave up", output);
    expect_part(seen_by(other, output), "died", output);
  }
}
#endif

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--program") {
    return lockstep::testing::run_program(argv[2], argv[3]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
