// SPDX-License-Identifier: BSD-3-Clause
// The programs of docs/data_parallel.md. They run as a test, in a world of one and with two ranks in
// this process.
#include <gtest/gtest.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <lockstep/parallel/data_parallel.h>
#include <torch/torch.h>

#include <iostream>
#include <vector>

namespace data_parallel_page {
namespace {

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl() { reset(); }
  void reset() override { linear = register_module("linear", torch::nn::Linear(4, 3)); }
  torch::Tensor forward(const torch::Tensor& x) { return linear(x); }
  torch::nn::Linear linear{nullptr};
};
TORCH_MODULE(Net);

TEST(DataParallelPage, OneLoop) {
  const std::vector<torch::data::Example<>> batches{
      {torch::rand({6, 4}), torch::randint(3, {6})}, {torch::rand({5, 4}), torch::randint(3, {5})}};
  // [loop]
  lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU});  // or {torch::Device("cuda:0"), ...}
  Net net;
  net->to(ranks.devices().front());
  lockstep::DataParallel<Net> replicated(net, ranks);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));

  const auto loss_function = [](const torch::Tensor& output, const torch::Tensor& target) {
    return torch::nn::functional::cross_entropy(output, target);
  };
  for (const auto& batch : batches) {
    optimizer.zero_grad();
    const auto loss = replicated.step(batch.data, batch.target, loss_function);
    optimizer.step();
    std::cout << "loss " << loss.item<double>() << '\n';
  }
  net->eval();
  const auto scores = replicated.forward(batches.front().data);
  // [loop]
  EXPECT_EQ(scores.size(0), 6);
  // [factory]
  lockstep::DataParallel<Net> other(net, ranks, [] { return Net(); });
  // [factory]
  EXPECT_EQ(other.forward(batches.front().data).size(1), 3);
  const auto train = [](const std::shared_ptr<lockstep::ProcessGroup>& group, torch::Device) {
    lockstep::DistributedDataParallel<Net> model(Net(), group);
    model->forward(torch::rand({2, 4})).sum().backward();
  };
  // [ranks]
  ranks.run([&](std::shared_ptr<lockstep::ProcessGroup> group, torch::Device device) {
    train(group, device);  // what every process would do, without init_process_group
  });
  ranks.close();
  // [ranks]
  EXPECT_FALSE(ranks.failed_rank());
}

TEST(DataParallelPage, Generators) {
  // [generator]
  lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU}, lockstep::LocalRanksOptions().seed(7));
  ranks.run([&](lockstep::ProcessGroup& group, torch::Device device) {
    const auto noise = torch::randn({3}, device);  // the same as with ranks.generator(group.rank())
    group.all_reduce(noise, lockstep::ReduceOp::Avg).wait();
  });
  // [generator]
  EXPECT_EQ(ranks.size(), 2);
}

TEST(DataParallelPage, Mesh) {
  lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU});
  ranks.run([](const std::shared_ptr<lockstep::ProcessGroup>& group, torch::Device) {
    // [mesh]
    lockstep::Mesh mesh(group, {{"stage", 2}, {"data", group->size() / 2}});
    auto replicas = mesh.group("data");             // the ranks with this rank's stage
    const bool is_first = mesh.index("stage") == 0;  // of mesh.size("stage")
    mesh.close();                                    // all its groups
    // [mesh]
    EXPECT_EQ(is_first, group->rank() == 0);
    EXPECT_EQ(replicas->size(), 1);
  });
}

}  // namespace
}  // namespace data_parallel_page
