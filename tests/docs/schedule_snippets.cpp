// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the toolbox's page about schedules. check_snippets.py compares each `// [name]`
// part with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

namespace {

void train_epoch(torch::nn::Linear& net, torch::optim::Optimizer& optimizer) {
  optimizer.zero_grad();
  net->forward(torch::ones({1, 2})).square().mean().backward();
  optimizer.step();
}

double rate_of(const torch::optim::Optimizer& optimizer) {
  return optimizer.param_groups()[0].options().get_lr();
}

TEST(SchedulePage, Cosine) {
  torch::nn::Linear net(2, 2);
  // [cosine]
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  lockstep::optim::lr_scheduler::CosineAnnealingLR schedule(optimizer, /*T_max=*/100);
  for (int epoch = 0; epoch < 100; ++epoch) {
    train_epoch(net, optimizer);
    schedule.step();
  }
  // [cosine]
  EXPECT_NEAR(rate_of(optimizer), 0, 1e-12);
}

TEST(SchedulePage, OneCycle) {
  torch::nn::Linear net(2, 2);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  // clang-format off
  // [one_cycle]
  lockstep::optim::lr_scheduler::OneCycleLR one_cycle(
      optimizer, lockstep::optim::lr_scheduler::OneCycleLROptions(0.4)
                     .epochs(10)
                     .steps_per_epoch(500)
                     .three_phase(true));
  // [one_cycle]
  // clang-format on
  EXPECT_NEAR(rate_of(optimizer), 0.4 / 25, 1e-12);
}

TEST(SchedulePage, Composites) {
  torch::nn::Linear net(2, 2);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  // clang-format off
  // [composites]
  using namespace lockstep::optim::lr_scheduler;
  SequentialLR warmup_then_cosine(optimizer,
                                  {part<LinearLR>(0.1, 1.0, 5), part<CosineAnnealingLR>(95)}, {5});
  ChainedScheduler both(optimizer, {part<ConstantLR>(0.1, 4), part<ExponentialLR>(0.9)});
  // [composites]
  // clang-format on
  EXPECT_NEAR(rate_of(optimizer), 0.001, 1e-12);
}

TEST(SchedulePage, SharedBaseRates) {
  using namespace lockstep::optim::lr_scheduler;
  torch::nn::Linear net(2, 2);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  // clang-format off
  // [shared]
  const ScheduledOptimizer scheduled(optimizer);
  LinearLR warmup(scheduled, 0.1, 1.0, 5);     // the rate is a tenth from now on
  CosineAnnealingLR cosine(scheduled, 95);     // its base rate is the whole rate
  SequentialLR schedule(scheduled, {warmup, cosine}, {5});
  // [shared]
  // clang-format on
  EXPECT_EQ(cosine.base_lrs(), std::vector<double>{0.1});
  // [checkpoint]
  lockstep::training::TrainingState state;
  state.add("model", net).add("optimizer", optimizer).add("schedule", schedule);
  // [checkpoint]
  EXPECT_EQ(state.parts().size(), 3);
}

TEST(SchedulePage, Plateau) {
  torch::nn::Linear net(2, 2);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  const auto group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  const double validation_loss = 0.5;
  // clang-format off
  // [plateau]
  lockstep::optim::lr_scheduler::ReduceLROnPlateau plateau(
      optimizer, lockstep::optim::lr_scheduler::ReduceLROnPlateauOptions()
                     .patience(2)
                     .group(group)
                     .average_metric(true));
  plateau.step(validation_loss);
  // [plateau]
  // clang-format on
  EXPECT_EQ(plateau.best(), 0.5);
  group->close();
}

}  // namespace
