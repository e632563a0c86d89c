// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about pipelines, as parts of programs that run in a world of one.
#include <gtest/gtest.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <lockstep/pipeline/pipeline.h>
#include <torch/torch.h>

#include <algorithm>
#include <iostream>
#include <utility>
#include <vector>

namespace {

struct PipelineSetting {
  using Net = torch::nn::Linear;
  std::shared_ptr<lockstep::ProcessGroup> group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  Net net{4, 4};
  std::vector<Net> my_stages{net};
  torch::optim::SGD optimizer{net->parameters(), 0.1};
  std::vector<std::pair<torch::Tensor, torch::Tensor>> batches{
      {torch::ones({8, 4}), torch::zeros({8, 4})}};
  static torch::Tensor loss_function(const torch::Tensor& output, const torch::Tensor& target) {
    return torch::mse_loss(output, target);
  }
  ~PipelineSetting() { group->close(); }
};

TEST(PipelinePage, Steps) {
  PipelineSetting setting;
  auto& [group, net, my_stages, optimizer, batches] = setting;
  const auto loss_function = PipelineSetting::loss_function;
  const auto before = net->weight.detach().clone();
  // [step]
  lockstep::pipeline::Pipeline pipeline(group, my_stages, lockstep::pipeline::PipelineOptions()
      .microbatches(8).schedule(lockstep::pipeline::one_f_one_b()));
  for (const auto& [data, target] : batches) {
    optimizer.zero_grad();
    const auto losses = pipeline.step(data, target, loss_function);  // one a microbatch, on the last stage
    optimizer.step();                                                // this rank's parameters
  }
  pipeline.close();
  // [step]
  EXPECT_FALSE(torch::equal(before, net->weight));
}

TEST(PipelinePage, MakesAStageOfAFunction) {
  PipelineSetting setting;
  auto net = setting.net;
  // [function]
  const lockstep::pipeline::Stage half([net](const torch::Tensor& x) mutable { return net->forward(x).relu(); }, net);
  // [function]
  EXPECT_EQ(half.call({torch::ones({2, 4})}).size(), 1U);
}

TEST(PipelinePage, MeasuresAndSimulates) {
  PipelineSetting setting;
  lockstep::pipeline::Pipeline pipeline(setting.group, setting.net, {});
  static_cast<void>(pipeline.step(torch::ones({8, 4}), torch::ones({8, 4}), PipelineSetting::loss_function));
  // [costs]
  const auto costs = pipeline.measured_costs();  // all ranks
  std::cout << pipeline.plan().simulate(costs) << '\n';
  // [costs]
  EXPECT_GT(costs.stages.at(0).forward, 0);
}

TEST(PipelinePage, AveragesOverReplicas) {
  PipelineSetting setting;
  using Net = PipelineSetting::Net;
  auto& [group, net, my_stages, optimizer, batches] = setting;
  const int replicas = 1;
  // [mesh]
  lockstep::Mesh mesh(group, {{"stage", group->size() / replicas}, {"data", replicas}});
  lockstep::DistributedDataParallel<Net> stage(net, mesh.group("data"));
  lockstep::pipeline::Pipeline pipeline(mesh.group("stage"), stage,
      lockstep::pipeline::PipelineOptions().microbatches(4));
  // [mesh]
  static_cast<void>(pipeline.step(batches[0].first, batches[0].second, PipelineSetting::loss_function));
  EXPECT_TRUE(net->weight.grad().defined());
  pipeline.close();
  mesh.close();
}

TEST(PipelinePage, ClipsByTheNormOfAllStages) {
  PipelineSetting setting;
  auto& group = setting.group;
  const auto my_parameters = setting.net->parameters();
  for (const auto& parameter : my_parameters) parameter.mutable_grad() = torch::ones_like(parameter);
  const double max_norm = 0.5;
  // [clip]
  auto squares = torch::zeros({});
  for (const auto& parameter : my_parameters) {
    if (parameter.grad().defined()) squares += parameter.grad().square().sum();
  }
  group->all_reduce(squares).wait();
  const auto factor = std::min(1.0, max_norm / (squares.sqrt().item<double>() + 1e-6));
  for (const auto& parameter : my_parameters) {
    if (parameter.grad().defined()) parameter.grad().mul_(factor);
  }
  // [clip]
  EXPECT_NEAR(setting.net->weight.grad()[0][0].item<double>(), 0.5 / std::sqrt(20.0), 1e-5);
}

TEST(PipelinePage, AddsUpTheGradientsOfASharedTable) {
  PipelineSetting setting;
  auto& group = setting.group;
  auto& table = setting.net->weight;
  table.mutable_grad() = torch::ones_like(table);
  const lockstep::pipeline::Pipeline pipeline(group, setting.net, {});
  // [table]
  const bool is_end = pipeline.has_first_stage() || pipeline.has_last_stage();
  const auto ends = group->split(is_end ? 0 : -1);  // all ranks call it, once
  // ... after each step, before the optimizer:
  if (ends) ends->all_reduce(table.grad()).wait();
  // [table]
}

}  // namespace
