// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/optimizer_parity_driver.py, which compares what this writes.
#include <gtest/gtest.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/optimizer_state.h>
#include <torch/torch.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace lockstep::training {
namespace {

using torch::optim::Optimizer;
using Parameters = std::vector<torch::Tensor>;
using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(const Parameters&)>;

constexpr int kSteps = 3;

template <class Kind, class Options>
MakeOptimizer maker(const Options& options) {
  return [=](const Parameters& parameters) { return std::make_unique<Kind>(parameters, options); };
}

/// As `OPTIMIZERS` of the driver.
const std::map<std::string, MakeOptimizer>& optimizers() {
  using namespace torch::optim;
  static const std::map<std::string, MakeOptimizer> all{
      {"sgd", maker<SGD>(SGDOptions(0.1))},
      {"sgd_momentum", maker<SGD>(SGDOptions(0.1).momentum(0.9).dampening(0.1).weight_decay(1e-3))},
      {"sgd_nesterov", maker<SGD>(SGDOptions(0.1).momentum(0.9).nesterov(true))},
      {"adam", maker<Adam>(AdamOptions(0.01).betas({0.8, 0.99}).eps(1e-7).weight_decay(0.01))},
      {"adam_amsgrad", maker<Adam>(AdamOptions(0.01).amsgrad(true))},
      {"adamw", maker<AdamW>(AdamWOptions(0.01).weight_decay(0.1))},
      {"rmsprop", maker<RMSprop>(RMSpropOptions(0.01))},
      {"rmsprop_centered",
       maker<RMSprop>(RMSpropOptions(0.01).momentum(0.5).centered(true).alpha(0.9))},
      {"adagrad",
       maker<Adagrad>(AdagradOptions(0.1).lr_decay(0.01).initial_accumulator_value(0.1))},
      {"lbfgs", maker<LBFGS>(LBFGSOptions(0.1).max_iter(4).history_size(3))}};
  return all;
}

std::string file(const std::string& optimizer, const std::string& what) {
  const char* folder = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (folder == nullptr) throw std::runtime_error("optimizer_parity_driver.py starts this program");
  return std::string(folder) + "/" + optimizer + "." + what + ".safetensors";
}

torch::nn::Sequential make_model() {
  return torch::nn::Sequential(torch::nn::Linear(4, 8), torch::nn::Tanh(), torch::nn::Linear(8, 2));
}

void train(torch::nn::Sequential& model, Optimizer& optimizer, int first) {
  for (int step = first; step < first + kSteps; ++step) {
    const auto data =
        torch::arange(20, torch::kFloat).reshape({5, 4}).mul(0.1).add(0.01 * step).sin();
    optimizer.step([&] {
      optimizer.zero_grad();
      auto loss = model->forward(data).square().mean();
      loss.backward();
      return loss;
    });
  }
}

class OptimizerPythonParity : public ::testing::TestWithParam<std::string> {};
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, make] : optimizers()) all.push_back(name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Optimizers, OptimizerPythonParity, ::testing::ValuesIn(names()),
                         [](const auto& test) { return test.param; });

TEST_P(OptimizerPythonParity, GoesOnWherePythonStopped) {
  auto model = make_model();
  const auto optimizer = optimizers().at(GetParam())(model->parameters());
  load_state(model, file(GetParam(), "middle"));
  load_optimizer(*optimizer, model, file(GetParam(), "optimizer"));
  train(model, *optimizer, kSteps);
  save_state(model, file(GetParam(), "after_python"));
}

TEST_P(OptimizerPythonParity, StopsWherePythonGoesOn) {
  auto model = make_model();
  const auto optimizer = optimizers().at(GetParam())(model->parameters());
  load_state(model, file(GetParam(), "start"));
  train(model, *optimizer, 0);
  save_state(model, file(GetParam(), "cpp_middle"));
  save_optimizer(*optimizer, model, file(GetParam(), "cpp_optimizer"));
  train(model, *optimizer, kSteps);
  save_state(model, file(GetParam(), "cpp_end"));
}

}  // namespace
}  // namespace lockstep::training
