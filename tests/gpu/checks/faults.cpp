// SPDX-License-Identifier: BSD-3-Clause
// Step 5: a rank that is killed, one that stops, and groups that are left while calls are under
// way.
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <chrono>
#include <csignal>
#include <memory>

#include "checks.h"
#include "nets.h"

namespace gpu {
namespace {

constexpr int kLastStep = 4;  // of rank 1

void expect_usable(const Settings& settings) {
  const auto ones = torch::ones({1000}, at::TensorOptions(settings.device()));
  require(ones.sum().item<float>() == 1000, "the device is not usable any more");
}

/// Rank 1 goes in the midst of a step; the others' error names it in time.
void lose_rank(const Settings& settings, int signal) {
  const auto group = make_group(settings, std::chrono::seconds(30), /*check_calls=*/true);
  Net net;
  fill_parameters(*net);
  net->to(settings.device());
  lockstep::DistributedDataParallel<Net> model(net, group);
  const std::chrono::seconds deadline(settings.size(4, 2));
  std::unique_ptr<lockstep::CallScope> scope;
  auto begin = std::chrono::steady_clock::now();
  std::string text;
  try {
    for (int step = 0; step < 1000; ++step) {
      begin = std::chrono::steady_clock::now();
      const auto loss = loss_of(model->forward(make_images(step, 4).to(settings.device())),
                                make_labels(step, 4).to(settings.device()));
      if (step == kLastStep) {
        if (group->rank() == 1) std::raise(signal);
        // Not before: a rank that a busy machine holds up would be missed while it lives.
        scope.reset(
            new lockstep::CallScope(group->with(lockstep::CallOptions().timeout(deadline))));
        begin = std::chrono::steady_clock::now();
      }
      model->zero_grad();
      loss.backward();
      synchronize(settings);
    }
  } catch (const lockstep::CommError& error) {
    text = error.what_without_backtrace();
  }
  const double seconds = seconds_since(begin);
  figure("noticed_after_s", seconds);
  require(!text.empty(), "the rank that had gone was not missed");
  require(text.find("rank 1") != std::string::npos, "the error does not name rank 1: " + text);
  // On the CPU, other programs may keep the machine busy.
  const double limit = static_cast<double>(deadline.count() + settings.size(1, 30));
  require(seconds < limit, "the error came after " + std::to_string(seconds) + " s");
  expect_usable(settings);
}

/// All ranks leave without `close`, while a call is under way.
void leave_group(const Settings& settings) {
  auto group = make_group(settings);
  const auto tensor = group->allocate({1 << 20}, at::TensorOptions(settings.device()));
  group->all_reduce(tensor).wait();
  for (int i = 0; i < 8; ++i) group->all_reduce(tensor);
  const auto begin = std::chrono::steady_clock::now();
  group.reset();
  figure("left_after_s", seconds_since(begin));
  expect_usable(settings);
}

}  // namespace

// --mode kill, stop, leave
void fault(const Settings& settings) {
  if (settings.mode == "leave") return leave_group(settings);
  require(settings.mode == "kill" || settings.mode == "stop", "--mode is kill, stop or leave");
  lose_rank(settings, settings.mode == "kill" ? SIGKILL : SIGSTOP);
}

}  // namespace gpu
