// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/init.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace lockstep::testing {

/// A launch environment for rank `rank` of a job of its own on this host.
inline LaunchEnvironment fake_environment(int rank, int world_size, const std::string& job_id) {
  LaunchEnvironment environment;
  environment.rank = environment.local_rank = rank;
  environment.world_size = environment.local_size = world_size;
  environment.launcher = Launcher::Custom;
  environment.job_id = job_id;
  return environment;
}

/// A job id that no other test uses.
inline std::string unique_job_id() {
  static std::atomic<int> count{0};
  return "test " + std::to_string(::getpid()) + " " + std::to_string(count++);
}

/// Far more than ranks need to meet, or to make a call, on a busy machine.
constexpr std::chrono::seconds kRankTimeout{60};

/// While it lives, calls of this group have this timeout, if that is a short one.
[[nodiscard]] inline std::unique_ptr<CallScope> limit_calls(ProcessGroup& group,
                                                            std::chrono::milliseconds timeout) {
  if (timeout >= kRankTimeout) return nullptr;
  return std::unique_ptr<CallScope>(new CallScope(group.with(CallOptions().timeout(timeout))));
}

using MakeGroup = std::function<std::shared_ptr<ProcessGroup>(const LaunchEnvironment&)>;
using RankBody = std::function<void(std::shared_ptr<ProcessGroup>)>;

/// Runs `body` once a rank, each in a thread of its own with a group that `make_group` made for it.
/// Returns what each rank threw, or null.
///
/// A rank that returns normally leaves its group open or closed as `body` left it.
inline std::vector<std::exception_ptr> run_groups(int world_size, const MakeGroup& make_group,
                                                  const RankBody& body,
                                                  const std::string& job = unique_job_id()) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world_size));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(make_group(fake_environment(rank, world_size, job)));
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  threads.clear();
  return errors;
}

/// The same for ranks that close their group after `body`: one that leaves without it gives up, and
/// the others would fail.
inline std::vector<std::exception_ptr> run_closing_groups(
    int world_size, const MakeGroup& make_group, const std::function<void(ProcessGroup&)>& body,
    const std::string& job = unique_job_id()) {
  return run_groups(
      world_size, make_group,
      [&](const std::shared_ptr<ProcessGroup>& group) {
        body(*group);
        group->close();
      },
      job);
}

/// The same as `run_groups` with the shared-memory backend (a world of one: the single backend). A
/// shorter `timeout` is that of the calls: to meet, ranks have the time that they need.
inline std::vector<std::exception_ptr> run_ranks(int world_size, const RankBody& body,
                                                 std::chrono::milliseconds timeout = kRankTimeout) {
  const auto make_group = [](const LaunchEnvironment& environment) {
    return init_process_group(ProcessGroupOptions().timeout(kRankTimeout).environment(environment));
  };
  return run_groups(world_size, make_group, [&](std::shared_ptr<ProcessGroup> group) {
    const auto limit = limit_calls(*group, timeout);
    body(std::move(group));
  });
}

/// The same where no rank may throw: the first error is rethrown.
inline void run_ranks_or_throw(int world_size, const RankBody& body) {
  for (const auto& error : run_ranks(world_size, body)) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace lockstep::testing
