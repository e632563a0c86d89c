// SPDX-License-Identifier: BSD-3-Clause
// The programs of docs/gpu.md. They run as a test, in a world of one on the CPU.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <vector>

namespace gpu_page {
namespace {

struct NetImpl : torch::nn::LinearImpl {
  using torch::nn::LinearImpl::LinearImpl;
};
TORCH_MODULE(Net);

Net make_net() {
  return Net(4, 3);
}

TEST(GpuPage, GraphedStep) {
  auto group = lockstep::init_process_group();
  const auto device = torch::kCPU;
  const torch::data::Example<> example{torch::rand({6, 4}), torch::randint(3, {6})};
  const std::vector<torch::data::Example<>> batches(5, example);
  std::vector<torch::Tensor> losses;
  // [graphed]
  auto net = make_net();
  net->to(device);
  lockstep::DistributedDataParallel<Net> model(
      net, group, lockstep::DistributedDataParallelOptions().static_graph(true));
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  const auto loss_fn = [](const torch::Tensor& output, const torch::Tensor& target) {
    return torch::nn::functional::cross_entropy(output, target);
  };

  lockstep::GraphedStep graphed(model, optimizer, loss_fn, example);
  for (const auto& batch : batches) {
    const auto loss = graphed(batch);
    losses.push_back(loss);
  }
  // [graphed]
  EXPECT_LT(losses.back().item<float>(), losses.front().item<float>());
  // [symmetric]
  const auto options = lockstep::DistributedDataParallelOptions().symmetric_memory(true);
  // [symmetric]
  EXPECT_TRUE(options.symmetric_memory());
  group->close();
}

TEST(GpuPage, Overlap) {
  const auto trace =
      std::filesystem::temp_directory_path() / ("gpu_page_" + std::to_string(::getpid()) + ".json");
  std::ofstream(trace) << R"({"traceEvents": [{"ph": "X", "cat": "kernel", "name": "ncclKernel",
      "ts": 1.0, "dur": 2.0, "args": {"device": 0, "stream": 7}}]})";
  // [overlap]
  const auto report = lockstep::training::overlap_report(trace);
  std::cout << to_string(report);  // a line for each device and each stream
  if (const auto hidden = report.communication.fraction()) std::cout << 100 * *hidden << " %\n";
  // [overlap]
  EXPECT_EQ(report.communication.fraction(), 0.0);
  std::filesystem::remove(trace);
}

}  // namespace
}  // namespace gpu_page
