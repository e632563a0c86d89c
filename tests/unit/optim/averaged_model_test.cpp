// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/optim/averaged_model.h>
#include <lockstep/optim/update_bn.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <lockstep/training/checkpointer.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::testing {
namespace {

using optim::AveragedModel;
using optim::AveragedModelOptions;
using torch::Tensor;

AveragedModelOptions ema_options() {
  return AveragedModelOptions().multi_avg_fn(optim::get_ema_multi_avg_fn(0.5));
}

void fill(torch::nn::Module& model, double value) {
  const torch::NoGradGuard no_gradients;
  for (const auto& parameter : model.parameters()) parameter.fill_(value);
  for (const auto& buffer : model.buffers()) {
    if (buffer.is_floating_point() || std::isfinite(value)) buffer.fill_(value);
  }
}

double value_of(const std::map<std::string, Tensor>& named, const std::string& name) {
  return named.at(name).flatten()[0].item<double>();
}

torch::nn::Sequential make_net() {
  return torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4));
}

TEST(AveragedModelUpdate, CopiesFirstAndAveragesThen) {
  auto net = make_net();
  AveragedModel ema(net, ema_options());
  AveragedModel swa(net);
  AveragedModel with_buffers(net, ema_options().use_buffers(true));
  for (const double value : {8.0, 16.0, 0.0}) {
    fill(*net, value);
    for (auto* average : {&ema, &swa, &with_buffers}) average->update();
  }
  EXPECT_EQ(ema.n_averaged(), 3);
  EXPECT_EQ(value_of(ema.averages(), "0.weight"), 6);
  EXPECT_EQ(value_of(ema.averages(), "1.running_mean"), 0);  // that of now
  EXPECT_EQ(value_of(swa.averages(), "0.weight"), 8);
  EXPECT_EQ(value_of(with_buffers.averages(), "1.running_mean"), 6);
  EXPECT_EQ(value_of(with_buffers.averages(), "1.num_batches_tracked"), 6);
  EXPECT_FALSE(ema.averages().at("0.weight").requires_grad());
}

TEST(AveragedModelUpdate, TakesAFunctionOfTheProgram) {
  auto net = make_net();
  std::vector<std::pair<std::size_t, std::int64_t>> calls;
  AveragedModel largest(
      net, AveragedModelOptions().multi_avg_fn(
               [&](at::TensorList averaged, at::TensorList current, std::int64_t num_averaged) {
                 calls.emplace_back(averaged.size(), num_averaged);
                 for (std::size_t i = 0; i < averaged.size(); ++i) {
                   averaged[i].copy_(torch::max(averaged[i], current[i]));
                 }
               }));
  for (const double value : {1.0, 3.0, 2.0}) {
    fill(*net, value);
    largest.update();
  }
  EXPECT_EQ(value_of(largest.averages(), "0.bias"), 3);
  EXPECT_EQ(calls, (std::vector<std::pair<std::size_t, std::int64_t>>{{4, 1}, {4, 2}}));
}

TEST(AveragedModelUpdate, AveragesATiedParameterOnce) {
  struct TiedImpl : torch::nn::Module {
    Tensor weight = register_parameter("first", torch::zeros({2}));
    Tensor same = register_parameter("second", weight);
  };
  const auto net = std::make_shared<TiedImpl>();
  AveragedModel ema(*net, ema_options());
  for (const double value : {0.0, 8.0}) {
    fill(*net, value);
    ema.update();
  }
  EXPECT_EQ(value_of(ema.state(), "module.first"), 4);
  EXPECT_EQ(value_of(ema.state(), "module.second"), 4);
  ema.load_state(ema.state());
}

TEST(AveragedModelUpdate, RefusesADecayOrAModelThatDoesNotFit) {
  expect_refusal([] { static_cast<void>(optim::get_ema_multi_avg_fn(1.5)); }, "the decay is 1.5");
  expect_refusal([] { static_cast<void>(optim::get_ema_multi_avg_fn(-0.1)); }, "from 0 to 1");
  torch::nn::Linear net(2, 2);
  AveragedModel ema(net);
  net->to(torch::kDouble);
  expect_refusal([&] { ema.update(); }, "'weight', Double of shape [2, 2], where it had 'weight'");
  net->to(torch::kFloat);
  ema.update();
  net->register_buffer("more", torch::zeros({1}));
  expect_refusal([&] { ema.update(); }, "has 3 parameters and buffers, and had 2");
}

TEST(AveragedModelSwap, ExchangesTheWeightsAndBringsThemBack) {
  auto net = make_net();
  AveragedModel ema(net, ema_options());
  fill(*net, 8);
  ema.update();
  fill(*net, std::nan(""));
  const auto* memory = net->parameters()[0].const_data_ptr();
  {
    const auto guard = ema.swap();
    EXPECT_TRUE(ema.is_swapped());
    EXPECT_EQ(net->parameters()[0].const_data_ptr(), memory);
    EXPECT_EQ(net->parameters()[0][0][0].item<float>(), 8);
    net->named_buffers()["1.running_mean"].fill_(3);  // as a forward in training mode does
  }
  EXPECT_FALSE(ema.is_swapped());
  EXPECT_TRUE(std::isnan(net->parameters()[0][0][0].item<float>()));
  EXPECT_TRUE(std::isnan(net->named_buffers()["1.running_mean"][0].item<float>()));
  EXPECT_EQ(value_of(ema.averages(), "0.weight"), 8);
  EXPECT_EQ(value_of(ema.averages(), "1.running_mean"), 3);
  const auto leave = [&] {
    const auto guard = ema.swap();
    throw std::runtime_error("left");
  };
  EXPECT_THROW(leave(), std::runtime_error);
  EXPECT_TRUE(std::isnan(net->parameters()[0][0][0].item<float>()));
  auto guard = ema.swap();
  guard.restore();
  EXPECT_TRUE(torch::GradMode::is_enabled());
  EXPECT_TRUE(std::isnan(net->parameters()[0][0][0].item<float>()));
  guard.restore();
  fill(*net, 4);
  ema.update();
  EXPECT_EQ(value_of(ema.averages(), "0.weight"), 6);
}

TEST(AveragedModelSwap, KeepsAveragesOfAnotherDtypeOfNumbers) {
  torch::nn::Linear net(2, 2);
  for (const auto dtype : {torch::kDouble, torch::kBFloat16, torch::kComplexDouble}) {
    net->to(dtype);
    fill(*net, 1);
    AveragedModel ema(net);
    fill(*net, 2);
    auto guard = ema.swap();
    EXPECT_EQ(torch::real(net->weight.detach().to(torch::kComplexDouble)).sum().item<double>(), 4);
    guard.restore();
    EXPECT_EQ(torch::real(net->weight.detach().to(torch::kComplexDouble)).sum().item<double>(), 8);
  }
}

TEST(AveragedModelSwap, IsNoPlaceForTraining) {
  auto net = make_net();
  AveragedModel ema(net, ema_options());
  torch::optim::SGD optimizer(net->parameters(), 0.5);
  const auto data = torch::arange(12, torch::kFloat).view({4, 3});
  net->forward(data).square().sum().backward();
  const auto before = net->parameters()[0].detach().clone();
  {
    const auto guard = ema.swap();
    expect_refusal([&] { net->forward(data).square().sum().backward(); }, "does not require grad");
    expect_refusal([&] { static_cast<void>(ema.swap()); }, "swap: the averages are the weights");
    expect_refusal([&] { ema.update(); }, "update: the averages are the weights");
    expect_refusal([&] { static_cast<void>(ema.state()); }, "state: the averages are the weights");
    expect_refusal([&] { ema.load_state({}); }, "load_state: the averages are the weights");
  }
  ema.update();

  auto guard = ema.swap();
  optimizer.step();
  expect_refusal([&] { guard.restore(); }, "parameters were written to while the averages");
  EXPECT_TRUE(torch::equal(net->parameters()[0], before));
  ema.update();  // it has been said

  std::string said;
  set_log_sink([&](logging::Level, std::string_view message) { said += message; });
  {
    const auto other = ema.swap();
    optimizer.step();
  }
  set_log_sink(nullptr);
  EXPECT_NE(said.find("parameters were written to"), std::string::npos) << said;
  EXPECT_TRUE(torch::equal(net->parameters()[0], before));
  expect_refusal([&] { ema.update(); }, "parameters were written to while the averages");
  ema.update();
}

TEST(AveragedModelSwap, FollowsMemoryThatIsReplaced) {
  torch::nn::Linear net(3, 4);
  fill(*net, 1);
  AveragedModel ema(net, ema_options());
  ema.update();
  fill(*net, 2);
  {
    const auto guard = ema.swap();
    for (auto& parameter : net->parameters()) parameter.set_data(parameter.detach().clone());
    EXPECT_EQ(net->weight[0][0].item<double>(), 1);
  }
  EXPECT_EQ(net->weight[0][0].item<double>(), 2);
  ema.update();  // nothing was trained meanwhile
}

TEST(AveragedModelSwap, FailsABackwardOfAGraphFromBefore) {
  torch::nn::Linear net(2, 2);
  AveragedModel ema(net);
  const auto loss = net->forward(torch::ones({1, 2}).requires_grad_()).sum();
  const auto guard = ema.swap();
  expect_refusal([&] { loss.backward(); }, "modified by an inplace operation");
}

TEST(AveragedModelState, HasPythonsNamesAndIsRefusedBeforeAnythingChanges) {
  auto net = make_net();
  AveragedModel ema(net, ema_options());
  fill(*net, 2);
  ema.update();
  const auto state = ema.state();
  EXPECT_EQ(state.size(), 8U);
  EXPECT_EQ(value_of(state, "n_averaged"), 1);
  EXPECT_EQ(value_of(state, "module.1.running_var"), 2);
  auto other_net = make_net();
  AveragedModel other(other_net, ema_options());
  const auto refuse = [&](const std::string& name, const Tensor& value, const std::string& part) {
    auto changed = state;
    if (value.defined()) {
      changed[name] = value;
    } else {
      changed.erase(name);
    }
    expect_refusal([&] { other.load_state(changed); }, part);
  };
  refuse("module.0.weight", torch::zeros({2}), "'module.0.weight' is Float of shape [2]");
  refuse("module.0.bias", torch::zeros({4}, torch::kDouble), "is Double of shape [4]");
  refuse("module.0.bias", Tensor(), "the state has no 'module.0.bias'");
  refuse("module.more", torch::zeros({1}), "the model has no 'module.more'");
  refuse("more", torch::zeros({1}), "the model has no 'more'");
  refuse("n_averaged", Tensor(), "no whole number 'n_averaged'");
  refuse("n_averaged", torch::full({}, -1, torch::kLong), "no whole number 'n_averaged'");
  EXPECT_EQ(other.n_averaged(), 0);
  other.load_state(state);
  EXPECT_EQ(other.n_averaged(), 1);
  fill(*other_net, 4);
  other.update();
  EXPECT_EQ(value_of(other.averages(), "0.weight"), 3);
  EXPECT_EQ(value_of(ema.averages(), "0.weight"), 2);
}

class AveragedModelRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, AveragedModelRanks, ::testing::Values(1, 2, 3));

TEST_P(AveragedModelRanks, GoesOnFromACheckpoint) {
  const training::TemporaryFolder folder;
  const auto run = [&](int first, int last, std::map<std::string, Tensor>& end) {
    run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      auto net = make_net();
      AveragedModel ema(net, ema_options());
      training::TrainingState state;
      state.add("model", net).add("ema", ema);
      training::Checkpointer checkpointer(group, folder.path());
      EXPECT_EQ(checkpointer.load_latest(state).has_value(), first > 0);
      for (int step = first; step < last; ++step) {
        fill(*net, 1.0 / (step + 3));
        ema.update();
      }
      {
        const auto guard = ema.swap();
        expect_refusal([&] { checkpointer.save(state, last); }, "the averages are the weights");
      }
      checkpointer.save(state, last);
      checkpointer.wait();
      if (group->rank() == 0) end = ema.state();
      group->close();
    });
  };
  std::map<std::string, Tensor> resumed;
  run(0, 3, resumed);
  run(3, 5, resumed);
  auto net = make_net();
  AveragedModel ema(net, ema_options());
  for (int step = 0; step < 5; ++step) {
    fill(*net, 1.0 / (step + 3));
    ema.update();
  }
  for (const auto& [name, tensor] : ema.state()) {
    EXPECT_TRUE(torch::equal(tensor, resumed.at(name))) << name;
  }
}

TEST_P(AveragedModelRanks, UpdateBnTakesABatchNormOfAllRanks) {
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    nn::SyncBatchNorm norm(torch::nn::BatchNormOptions(2), group);
    const auto batch_of = [](int rank, int batch) {
      return torch::sin(torch::arange(8, torch::kFloat).view({4, 2}) + rank + 10 * batch);
    };
    norm->forward(batch_of(group->rank(), 7));  // to be forgotten
    std::vector<Tensor> batches{batch_of(group->rank(), 0), batch_of(group->rank(), 1)};
    norm->eval();
    optim::update_bn(batches, norm);
    EXPECT_FALSE(norm->is_training());
    EXPECT_EQ(norm->options.momentum(), std::optional<double>(0.1));
    auto expected = torch::zeros({2});
    for (int batch = 0; batch < 2; ++batch) {
      std::vector<Tensor> all;
      for (int rank = 0; rank < GetParam(); ++rank) all.push_back(batch_of(rank, batch));
      expected += torch::cat(all).mean(0) / 2;
    }
    EXPECT_TRUE(torch::allclose(norm->running_mean, expected, 1e-5, 1e-6));
    EXPECT_EQ(norm->num_batches_tracked.item<int>(), 2);
    group->close();
  });
}

TEST(UpdateBn, TakesBatchesOfSeveralKindsAndSetsModesBack) {
  auto net = make_net();
  net->eval();
  net[1]->train();
  const auto one = torch::arange(12, torch::kFloat).view({4, 3});
  const auto target = torch::zeros({4});
  std::vector<Tensor> tensors{one, one + 1};
  optim::update_bn(tensors, net);
  const auto expected = net->named_buffers()["1.running_mean"].clone();
  EXPECT_FALSE(net->is_training());
  EXPECT_FALSE(net[0]->is_training());
  EXPECT_TRUE(net[1]->is_training());
  std::vector<torch::data::Example<>> examples{{one, target}, {one + 1, target}};
  std::vector<std::tuple<Tensor, Tensor>> tuples{{one, target}, {one + 1, target}};
  const auto expect_same_again = [&](auto& loader) {
    net->named_buffers()["1.running_mean"].zero_();
    optim::update_bn(loader, net, torch::Device(torch::kCPU));
    EXPECT_TRUE(torch::equal(net->named_buffers()["1.running_mean"], expected));
  };
  expect_same_again(examples);
  expect_same_again(tuples);
}

TEST(UpdateBn, SetsModesBackWhereThePassFailsAndIsNothingWithoutBatchNorms) {
  auto net = make_net();
  net->eval();
  const auto fail = [&] {
    optim::update_bn(*net, [&] {
      EXPECT_TRUE(net->is_training());
      EXPECT_FALSE(torch::GradMode::is_enabled());
      throw std::runtime_error("no data");
    });
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_FALSE(net->is_training());
  EXPECT_EQ(net[1]->as<torch::nn::BatchNorm1d>()->options.momentum(), std::optional<double>(0.1));
  torch::nn::Linear plain(2, 2);
  optim::update_bn(*plain, [] { ADD_FAILURE() << "there is nothing to compute"; });
}

TEST(UpdateBn, TakesAModuleThatNoPointerOwns) {
  torch::nn::BatchNorm1dImpl norm(3);
  const auto data = torch::arange(12, torch::kFloat).view({4, 3});
  optim::update_bn(norm, [&] {
    for (const int shift : {0, 4, 5}) norm.forward(data + shift);
  });
  EXPECT_TRUE(torch::allclose(norm.running_mean, data.mean(0) + 3));
}

TEST(UpdateBn, BelongsToTheAveragesWhileTheyAreSwappedIn) {
  auto net = make_net();
  AveragedModel swa(net);
  std::vector<Tensor> batches{torch::arange(12, torch::kFloat).view({4, 3})};
  fill(*net, 1);
  swa.update();
  const auto of_training = net->named_buffers()["1.running_mean"].clone();
  {
    auto guard = swa.swap();
    optim::update_bn(batches, net);
    guard.restore();
  }
  EXPECT_TRUE(torch::equal(net->named_buffers()["1.running_mean"], of_training));
  EXPECT_NE(value_of(swa.averages(), "1.running_mean"), 1);
}

}  // namespace
}  // namespace lockstep::testing
