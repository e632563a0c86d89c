// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/comm/work.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace lockstep::testing {

/// How the child ended, in words; "" where it returned this status by itself.
inline std::string unexpected_end(pid_t child, int expected) {
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return "the child was not to be waited for";
  if (WIFSIGNALED(status)) {
    const std::string hint = WTERMSIG(status) == SIGALRM ? " (it hung)" : "";
    return "the child was ended by signal " + std::to_string(WTERMSIG(status)) + hint;
  }
  return WEXITSTATUS(status) == expected
             ? ""
             : "the child left with status " + std::to_string(WEXITSTATUS(status));
}

/// In a child: whoever hangs is ended.
inline void limit_child() {
  ::alarm(60);
}

/// Runs `body` in a fork that ends without destructors or handlers. Throws unless it ran to its
/// end.
inline void run_in_fork(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    limit_child();
    try {
      body();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  const std::string text = unexpected_end(child, 0);
  if (!text.empty()) throw std::runtime_error(text);
}

/// What a child of the program's own may do with its copy of a group, last of all let it go.
inline void misuse_in_fork(std::shared_ptr<ProcessGroup>& group, std::optional<Work>& work) {
  const auto expect_refusal = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const c10::Error& error) {
      if (std::string(error.what()).find("is a fork of the rank") != std::string::npos) return;
    }
    throw std::runtime_error("the call was not refused");
  };
  expect_refusal([&] { group->barrier(); });
  expect_refusal([&] { work->wait(); });
  static_cast<void>(work->is_completed());
  static_cast<void>(work->exception());
  group->progress();
  group->close();
  work.reset();
  group.reset();
}

/// A rank forks, lets its child misuse the group, and works on. `group` is the only reference.
inline void fork_and_work_on(std::shared_ptr<ProcessGroup>& group) {
  auto memory = group->allocate({1000}, at::kFloat);
  auto work = std::make_optional(group->all_reduce(memory));
  run_in_fork([&] {
    misuse_in_fork(group, work);
    memory.reset();
  });
  work->wait();
  group->barrier();
  work.reset();
  group->close();
}

/// The ways in which a child of a program ends.
enum class ForkEnd { Return, Exit, ImmediateExit, Throw };
constexpr std::array<ForkEnd, 4> kForkEnds{ForkEnd::Return, ForkEnd::Exit, ForkEnd::ImmediateExit,
                                           ForkEnd::Throw};

/// Forks. True in the child if its caller is to return; the parent waits for the child's end, and
/// throws where that is another than `end` means. An exception must become exit status 1.
inline bool fork_that_ends(ForkEnd end) {
  const pid_t child = ::fork();
  if (child == 0) {
    limit_child();
    if (end == ForkEnd::Exit) std::exit(0);
    if (end == ForkEnd::ImmediateExit) ::_exit(0);
    if (end == ForkEnd::Throw) throw std::runtime_error("a child's own error");
    return true;
  }
  const std::string text = unexpected_end(child, end == ForkEnd::Throw ? 1 : 0);
  if (!text.empty()) {
    throw std::runtime_error("end " + std::to_string(static_cast<int>(end)) + ": " + text);
  }
  return false;
}

}  // namespace lockstep::testing
