// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <utility>

namespace example {

/// Thrown on a rank that has nothing to say, because another one reports what went wrong.
struct ReportedElsewhere : std::exception {};

/// Launchers such as mpirun end all ranks as soon as one leaves with an error. A rank that does so
/// calls this first, so that the others can still say what they know. Returns at once where there
/// are no others. Called in the main thread, by a rank that has said what it has to say.
///
/// Blocks: until all other ranks call this, too, if all are on this host and have one parent. Two
/// seconds at most, or as many as the variable `LOCKSTEP_EXAMPLE_WAIT_S` says; so long in any case,
/// where there are several hosts.
void let_others_speak();

/// Runs `body` and returns its exit code. An exception becomes one line on stderr, which names the
/// program and the rank, and 1.
[[nodiscard]] int exit_code_of(const std::string& program, const std::function<int()>& body);

/// After every rank tried the same thing: returns when all succeeded, else throws on every rank,
/// `error` on the lowest one that failed and `ReportedElsewhere` on the others. Closes the group
/// before it throws.
///
/// Collective.
void agree_on_success(lockstep::ProcessGroup& group, const std::exception_ptr& error);

/// What `body` returns, when it succeeds on every rank. So a missing file is reported once, not by
/// every rank, and no rank waits for one that has gone.
///
/// Collective. Throws: as `agree_on_success`.
template <typename Body>
[[nodiscard]] auto together(lockstep::ProcessGroup& group, Body body) {
  std::optional<decltype(body())> result;
  std::exception_ptr error;
  try {
    result.emplace(body());
  } catch (...) {
    error = std::current_exception();
  }
  agree_on_success(group, error);
  return std::move(*result);
}

}  // namespace example
