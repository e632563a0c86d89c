// SPDX-License-Identifier: BSD-3-Clause
#include "errors.h"

#include "report.h"

#include <torch/torch.h>

#include <chrono>
#include <optional>
#include <string>
#include <thread>

namespace example {
namespace {

// Nothing where the launch variables are wrong; then they are what the message is about.
std::optional<lockstep::LaunchEnvironment> try_detect() {
  try {
    return lockstep::LaunchEnvironment::detect();
  } catch (const lockstep::LaunchError&) {
    return std::nullopt;
  }
}

void report_with_rank(const std::string& program, const std::string& message) {
  const auto launch = try_detect();
  const auto who = launch ? "rank " + std::to_string(launch->rank) + ": " : std::string();
  report(program, who + message);
}

}  // namespace

void let_others_speak() {
  const auto launch = try_detect();
  if (launch && launch->world_size > 1) std::this_thread::sleep_for(std::chrono::seconds(2));
}

int exit_code_of(const std::string& program, const std::function<int()>& body) {
  try {
    return body();
  } catch (const ReportedElsewhere&) {
  } catch (const c10::Error& error) {
    report_with_rank(program, error.what_without_backtrace());
  } catch (const std::exception& error) {
    report_with_rank(program, error.what());
  }
  let_others_speak();
  return 1;
}

void agree_on_success(lockstep::ProcessGroup& group, const std::exception_ptr& error) {
  const auto first = torch::tensor({error ? group.rank() : group.size()}, torch::kLong);
  group.all_reduce(first, lockstep::ReduceOp::Min).wait();
  const auto failed = first.item<int64_t>();
  if (failed == group.size()) return;
  group.close();
  if (failed == group.rank()) std::rethrow_exception(error);
  throw ReportedElsewhere();
}

}  // namespace example
