// SPDX-License-Identifier: BSD-3-Clause
#include "workers/fork_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <memory>

#include "native/posix/child_process.h"
#include "support/timed_waits.h"
#include "workers/task_channel.h"

namespace lockstep::workers {
namespace {

using testing::happens;

// The owner says it to all before it writes its stop byte to the fork server, which may be later on
// a busy machine.
TEST(ForkServer, DoesNotReplaceAWorkerThatEndedBecauseAllShall) {
  TaskChannel channel({1, 1, 1, sizeof(std::atomic<int>), false});
  auto& starts = *std::construct_at(reinterpret_cast<std::atomic<int>*>(channel.user_area()));
  auto& worker = channel.table().workers[0];
  WorkerProgram program;
  program.run = [&](std::size_t) {
    worker.state = WorkerState::Running;
    ++starts;
    happens([&] { return channel.events().is_stopping(); });
  };
  program.repair = [](std::size_t) {};
  program.keep_descriptors = {channel.region().descriptor()};
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  native::ChildProcess fork_server("test", [&, owner = ::getpid()] {
    return run_fork_server(channel.table(), program, {owner, ends[1]});
  });
  ASSERT_TRUE(happens([&] { return starts == 1 && worker.pid != 0; }));
  const pid_t pid = worker.pid;
  channel.events().stop_workers();
  ASSERT_TRUE(happens([&] { return ::kill(pid, 0) != 0; }));  // the fork server has reaped it
  ASSERT_EQ(::write(ends[0], "q", 1), 1);
  EXPECT_TRUE(fork_server.wait(std::chrono::minutes(1)).has_value());
  EXPECT_EQ(starts, 1);
  ::close(ends[0]);
  ::close(ends[1]);
}

// What the repair makes available may be done by others, and seen by the owner, before the fork
// server goes on.
TEST(ForkServer, CountsARestartBeforeOthersTakeOver) {
  struct Seen {
    std::atomic<int> starts;
    std::atomic<int> repairs;
    std::atomic<int> restarts_at_first;
    std::atomic<int> restarts_at_last;
  };
  TaskChannel channel({1, 1, 1, sizeof(Seen), false});
  auto& seen = *std::construct_at(reinterpret_cast<Seen*>(channel.user_area()));
  auto& worker = channel.table().workers[0];
  WorkerProgram program;
  program.run = [&](std::size_t) {  // the first worker works, and those after it never do
    if (seen.starts++ == 0) worker.state = WorkerState::Running;
    ::_exit(1);
  };
  program.repair = [&](std::size_t) {
    const auto restarts = static_cast<int>(worker.restarts.load());
    if (seen.repairs == 0) seen.restarts_at_first = restarts;
    seen.restarts_at_last = restarts;
    ++seen.repairs;
  };
  program.keep_descriptors = {channel.region().descriptor()};
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  native::ChildProcess fork_server("test", [&, owner = ::getpid()] {
    return run_fork_server(channel.table(), program, {owner, ends[1]});
  });
  ASSERT_TRUE(happens([&] { return worker.state == WorkerState::GivenUp; }));
  EXPECT_EQ(seen.restarts_at_first, 1);
  EXPECT_EQ(seen.repairs, 4);
  EXPECT_EQ(seen.restarts_at_last, 3) << "the last one is not replaced";
  EXPECT_EQ(worker.restarts, 3U);
  ASSERT_EQ(::write(ends[0], "q", 1), 1);
  EXPECT_TRUE(fork_server.wait(std::chrono::minutes(1)).has_value());
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace lockstep::workers
