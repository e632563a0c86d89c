// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the pages about DistributedDataParallel, as parts of programs that run in a world
// of one. check_snippets.py compares each `// [name]` part with the pages.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <iostream>

namespace {

using torch::nn::Linear;
using Net = Linear;

struct Setting {
  std::shared_ptr<lockstep::ProcessGroup> group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  Net net{4, 2};
  lockstep::DistributedDataParallel<Net> model{net, group};
  torch::optim::SGD optimizer{model->parameters(), 0.1};
  std::vector<torch::Tensor> batches{torch::ones({3, 4}), torch::ones({1, 4})};
  ~Setting() { group->close(); }
};

torch::Tensor loss_of(lockstep::DistributedDataParallel<Net>& model, const torch::Tensor& batch) {
  return model->forward(batch).sum();
}

TEST(DdpPage, Wraps) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [wrap]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions().bucket_cap_bytes(25 << 20));
  // [wrap]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, Accumulates) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [accumulate]
  optimizer.zero_grad();
  for (std::size_t i = 0; i < batches.size(); ++i) {
    std::optional<lockstep::NoSyncGuard> guard;
    if (i + 1 < batches.size()) guard.emplace(model->no_sync());
    loss_of(model, batches[i]).backward();     // the last one averages the sum, once
  }
  optimizer.step();
  // [accumulate]
}

TEST(DdpPage, Joins) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [join]
  for (auto& batch : batches) {                // as many as this rank happens to have
    optimizer.zero_grad();
    loss_of(model, batch).backward();
    optimizer.step();
  }
  model->join([&] {                            // runs for each backward that the others still make
    optimizer.step();
    optimizer.zero_grad();
  });
  // [join]
}

TEST(DdpPage, Weighs) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [samples]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions()
          .averaging(lockstep::GradientAveraging::Samples));
  loss_of(model, batches[0]).backward();       // counts batches[0].size(0) samples
  // [samples]
}

TEST(DdpPage, KeepsBuffersTogether) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [buffers]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions()
          .buffer_sync(lockstep::BufferSync::Average));
  // [buffers]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, TakesAHook) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [hook]
  model->register_communication_hook(
      [](lockstep::ProcessGroup& ranks, const lockstep::GradientBucketView& bucket) {
        const auto wide = bucket.buffer().to(torch::kDouble);      // sums in double
        return ranks.all_reduce(wide, lockstep::ReduceOp::Avg)
            .then([wide] { return wide.to(torch::kFloat); });
      });
  // [hook]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, TellsWhatHappened) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [statistics]
  const auto statistics = model->statistics();
  std::cout << statistics.steps << " steps, " << statistics.last.exposed.count()
            << " s waited in the last one; buckets by " << statistics.plan_reason << '\n';
  for (const auto& name : statistics.unused_parameters) std::cout << name << " was not used\n";
  // [statistics]
}

TEST(HookPages, HaveHooksThatAreMadeReady) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [bf16]
  model->register_communication_hook(lockstep::hooks::bf16_compress());
  // [bf16]
  // [power_sgd]
  lockstep::hooks::PowerSgd hook(lockstep::hooks::PowerSgdOptions()
                                     .matrix_approximation_rank(2)
                                     .start_iteration(500));
  model->register_communication_hook(hook);  // a copy, which shares its state
  const auto owed = hook.error_of(model->parameters()[0]);  // what this rank has still to send of it
  // [power_sgd]
  {
    // [around]
    using namespace lockstep::hooks;
    model->register_communication_hook(compress(at::kBFloat16, PowerSgd(PowerSgdOptions())));
    // [around]
  }
  loss_of(model, batches[0]).backward();
  // [local]
  auto host = group->split(group->rank() / group->local_size());  // hosts full, ranks host by host
  model->register_communication_hook(lockstep::hooks::PostLocalSgd(
      lockstep::hooks::PostLocalSgdOptions().start_iteration(1000).subgroup(host)));
  lockstep::hooks::PeriodicModelAverager averager(group, 4, 1000);
  // ... and in the loop, before zero_grad: parameters without a gradient are left out
  optimizer.step();
  averager.average_parameters(model->parameters());
  // [local]
  host->close();
}

// [sync_batch_norm]
struct NetImpl : torch::nn::Module {
  explicit NetImpl(const std::shared_ptr<lockstep::ProcessGroup>& group) {
    conv = register_module("conv", torch::nn::Conv2d(3, 64, 3));
    bn = register_module("bn", lockstep::nn::SyncBatchNorm(64, group));
  }
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(bn(conv(x))); }
  torch::nn::Conv2d conv{nullptr};
  lockstep::nn::SyncBatchNorm bn{nullptr};
};
// [sync_batch_norm]

TEST(BatchNormPage, NormalisesOverAllRanks) {
  Setting setting;
  EXPECT_EQ(NetImpl(setting.group).forward(torch::randn({2, 3, 5, 5})).size(1), 64);
  torch::nn::Sequential net{torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4)};
  const auto& group = setting.group;
  // [convert]
  lockstep::nn::convert_sync_batchnorm(net, group);   // returns how many it changed
  // [convert]
  EXPECT_NE(net[1]->as<lockstep::nn::SyncBatchNorm>(), nullptr);
}

TEST(CheckpointPage, RunsBlocksAgain) {
  std::vector<Linear> blocks{Linear(4, 4), Linear(4, 4)};
  auto x = torch::ones({2, 4});
  // [checkpoint]
  for (auto& block : blocks) {
    x = lockstep::checkpoint([block](const torch::Tensor& y) mutable { return block(y); }, x);
  }
  // [checkpoint]
  x.sum().backward();
  EXPECT_TRUE(blocks[0]->weight.grad().defined());
}

}  // namespace
