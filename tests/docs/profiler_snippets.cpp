// SPDX-License-Identifier: BSD-3-Clause
// The program of docs/training_toolbox.md about profiling. tools/lint.sh compares them.
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/profiler.h>
#include <lockstep/training/range.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>

namespace {

torch::Tensor profiled_batch(int step) {
  return torch::ones({2, 3}) * step;
}

TEST(ProfilerPage, RecordsTheStepsOfTheTable) {
  auto group = lockstep::init_process_group();
  const auto before = std::filesystem::current_path();
  const auto folder = std::filesystem::temp_directory_path() /
                      ("profiler_page_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::filesystem::current_path(folder);
  const int steps = 6;
  torch::nn::Linear net(3, 2);
  lockstep::DistributedDataParallel<torch::nn::Linear> model(net, group);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  {
    // [profiler]
    lockstep::training::Profiler profiler(
        group, "trace",
        lockstep::training::ProfilerOptions().wait(1).warmup(1).active(3).repeat(1));
    for (int step = 0; step < steps; ++step) {
      const auto batch = profiled_batch(step);
      {
        lockstep::training::Range range("forward and backward");
        model->forward(batch).square().mean().backward();
      }
      if (profiler.is_recording()) profiler.add(model->statistics());
      optimizer.step();
      optimizer.zero_grad();
      profiler.step();
    }
    // [profiler]
  }
  EXPECT_TRUE(std::filesystem::exists("trace/rank" + std::to_string(group->rank()) + ".step2.json"));
  std::filesystem::current_path(before);
  std::filesystem::remove_all(folder);
  group->close();
}

}  // namespace
