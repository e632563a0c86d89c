// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about the toolbox that concern mixed precision and averages.
// check_snippets.py compares each `// [name]` part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <iostream>
#include <vector>

// Named: the pages' programs are compiled together.
namespace amp_page {
namespace {

using Net = torch::nn::Sequential;

double evaluate(Net& net) {
  net->eval();
  const double loss = net->forward(torch::ones({4, 2})).square().mean().item<double>();
  net->train();
  return loss;
}

TEST(AmpPage, ScalesAndAverages) {
  const auto group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  Net net(torch::nn::Linear(2, 3), torch::nn::BatchNorm1d(3));
  lockstep::DistributedDataParallel<Net> model(net, group);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  std::vector<torch::data::Example<>> batches;
  for (int i = 0; i < 3; ++i) batches.push_back({torch::randn({4, 2}), torch::zeros({4, 3})});
  // [scale]
  lockstep::amp::GradScaler scaler(lockstep::amp::GradScalerOptions().group(group));
  for (const auto& batch : batches) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const lockstep::amp::autocast guard(torch::kCPU, torch::kHalf);
      loss = torch::mse_loss(model->forward(batch.data), batch.target);
    }
    scaler.scale(loss).backward();
    scaler.unscale_(optimizer);                     // only to clip, or to look at gradients
    lockstep::optim::clip_grad_norm_(net->parameters(), 1.0);
    scaler.step(optimizer);                         // false: this step was skipped, on all ranks
    scaler.update();
  }
  // [scale]
  EXPECT_GT(scaler.get_scale(), 0);
  // [ema]
  lockstep::optim::AveragedModel ema(net, lockstep::optim::AveragedModelOptions().multi_avg_fn(
                                              lockstep::optim::get_ema_multi_avg_fn(0.999)));
  for (const auto& batch : batches) {
    optimizer.zero_grad();
    torch::mse_loss(model->forward(batch.data), batch.target).backward();
    optimizer.step();
    ema.update();
  }
  {
    const auto guard = ema.swap();  // the model has the averages until the scope ends
    std::cout << "loss of the averages: " << evaluate(net) << '\n';
  }
  // [ema]
  // [bn]
  {
    auto guard = ema.swap();
    lockstep::optim::update_bn(batches, net);
    guard.restore();
  }
  // [bn]
  EXPECT_EQ(ema.n_averaged(), 3);
  EXPECT_EQ(ema.averages().at("1.num_batches_tracked").item<int>(), 3);
  // [parts]
  lockstep::training::TrainingState state;
  state.add("model", net).add("optimizer", optimizer).add("scaler", scaler).add("ema", ema);
  // [parts]
  EXPECT_EQ(state.parts().size(), 4U);
  group->close();
}

}  // namespace
}  // namespace amp_page
