// SPDX-License-Identifier: BSD-3-Clause
#include "errors.h"

#include <torch/torch.h>

#include <algorithm>
#include <iostream>
#include <string>

namespace example {
namespace {

// Written with one call, so that the lines of two ranks do not mix.
void report(std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::string who;
  try {
    const auto launch = lockstep::LaunchEnvironment::detect();
    who = "rank " + std::to_string(launch.rank) + ": ";
  } catch (const lockstep::LaunchError&) {
    // Then this is what the message is about.
  }
  std::cerr << "resnet: " + who + message + "\n" << std::flush;
}

}  // namespace

int exit_code_of(const std::function<int()>& body) {
  try {
    return body();
  } catch (const ReportedElsewhere&) {
  } catch (const c10::Error& error) {
    report(error.what_without_backtrace());
  } catch (const std::exception& error) {
    report(error.what());
  }
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
