// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/child_process.h"

#include <gtest/gtest.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <utility>

namespace lockstep::native {
namespace {

std::array<int, 2> ends{};

void let_child_end(int) {
  static_cast<void>(!::write(ends[1], "x", 1));
}

// The signal is what lets the child end, so the wait is not over when its handler has run.
TEST(ChildProcess, IsAwaitedWhileHandlersOfTheProgramRun) {
  ASSERT_EQ(::pipe(ends.data()), 0);
  ChildProcess child("test", [] {
    char order = 0;
    return ::read(ends[0], &order, 1) == 1 ? 7 : 1;
  });
  ::signal(SIGALRM, let_child_end);
  const itimerval soon{{0, 0}, {0, 100'000}};
  ::setitimer(ITIMER_REAL, &soon, nullptr);
  const auto status = child.wait(std::chrono::minutes(1));
  ::signal(SIGALRM, SIG_DFL);
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(describe_wait_status(*status), "exited with status 7");
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(ChildProcess, StatusIsKept) {
  ChildProcess child("test", [] { return 7; });
  const auto status = child.wait(std::chrono::minutes(1));
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(child.wait(std::chrono::milliseconds(0)), status);
  child.kill();  // nobody: its number may be another process's by now
  EXPECT_EQ(child.wait(std::chrono::milliseconds(0)), status);
  EXPECT_EQ(ChildProcess(std::move(child)).wait(std::chrono::milliseconds(0)), status);
}

}  // namespace
}  // namespace lockstep::native
