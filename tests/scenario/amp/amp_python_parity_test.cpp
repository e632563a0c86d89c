// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/amp_parity_driver.py, which compares what this writes.
#include <gtest/gtest.h>
#include <lockstep/amp/grad_scaler.h>
#include <lockstep/optim/averaged_model.h>
#include <lockstep/optim/clip_grad.h>
#include <lockstep/optim/update_bn.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::testing {
namespace {

using torch::Tensor;
using TensorsByName = std::map<std::string, Tensor>;

constexpr int kParitySteps = 10000;
constexpr int kBases = 16;
constexpr int kAverageUpdates = 12;

/// A case of `SCALERS` of the driver.
struct ScalerCase {
  std::string name;
  amp::GradScalerOptions options;
  bool clips;
};

std::vector<ScalerCase> scaler_cases() {
  return {{"clipped", amp::GradScalerOptions().init_scale(65536).growth_interval(50), true},
          {"high",
           amp::GradScalerOptions()
               .init_scale(std::ldexp(1.0, 120))
               .growth_factor(1.7)
               .backoff_factor(0.3)
               .growth_interval(7),
           false}};
}

void trace_scaler(const std::string& folder, const ScalerCase& its, const TensorsByName& given,
                  TensorsByName& found) {
  amp::GradScaler scaler(its.options);
  const auto first = torch::zeros({5, 3}).requires_grad_();
  const auto second = torch::zeros({4}).requires_grad_();
  torch::optim::SGD of_first({first}, torch::optim::SGDOptions(0.1).momentum(0.9));
  torch::optim::SGD of_second({second}, 0.01);
  const auto overflows = given.at(its.name + ".overflows");
  const auto scales = torch::empty({kParitySteps}, torch::kDouble);
  const auto trackers = torch::empty({kParitySteps}, torch::kLong);
  const auto values = torch::empty({kParitySteps}, torch::kDouble);
  for (int step = 0; step < kParitySteps; ++step) {
    first.mutable_grad() = second.mutable_grad() = Tensor();
    const auto loss = (first * given.at("first")[step % kBases]).sum() +
                      (second * given.at("second")[step % kBases]).sum();
    scaler.scale(loss).backward();
    const auto overflow = overflows.const_data_ptr<std::int64_t>()[step];
    if (overflow == 1) first.grad()[0][0] = std::numeric_limits<float>::infinity();
    if (overflow == 2) second.grad()[1] = std::numeric_limits<float>::quiet_NaN();
    if (its.clips) {
      scaler.unscale_(of_first);
      optim::clip_grad_norm_({first}, 0.5);
    }
    scaler.step(of_first);
    scaler.step(of_second);
    scaler.update();
    const auto state = scaler.state();
    scales.mutable_data_ptr<double>()[step] = scaler.get_scale();
    trackers.mutable_data_ptr<std::int64_t>()[step] =
        state.at("_growth_tracker").item<std::int64_t>();
    values.mutable_data_ptr<double>()[step] =
        static_cast<double>(first.const_data_ptr<float>()[0]) + second.const_data_ptr<float>()[1];
  }
  found.insert({{its.name + ".scales", scales},
                {its.name + ".trackers", trackers},
                {its.name + ".values", values},
                {its.name + ".first", first.detach()},
                {its.name + ".second", second.detach()}});
  training::save_safetensors(folder + "/" + its.name + ".scaler.safetensors", scaler.state());
}

void clip_all(const TensorsByName& given, TensorsByName& found) {
  const std::vector<std::pair<std::string, double>> norms{
      {"one", 1}, {"two", 2}, {"three", 3}, {"half", 0.5}, {"inf", HUGE_VAL}};
  const std::vector<std::pair<std::string, double>> bounds{{"low", 0.1}, {"high", 1e6}};
  for (const std::string dtype : {"float32", "float64", "bfloat16"}) {
    for (const auto& [norm_name, norm] : norms) {
      for (const auto& [bound_name, bound] : bounds) {
        std::vector<Tensor> parameters;
        for (std::size_t i = 0; i < 5; ++i) {
          const auto& gradient = given.at("clip." + dtype + "." + std::to_string(i));
          parameters.push_back(torch::zeros_like(gradient).requires_grad_());
          parameters.back().mutable_grad() = gradient.clone();
        }
        const std::string key = dtype + "." + norm_name + "." + bound_name;
        found[key + ".norm"] = optim::clip_grad_norm_(parameters, bound, norm);
        for (std::size_t i = 0; i < 5; ++i) {
          found[key + "." + std::to_string(i)] = parameters[i].grad().clone();
        }
        optim::clip_grad_value_(parameters, 0.05);
        for (std::size_t i = 0; i < 5; ++i) {
          found[key + ".value." + std::to_string(i)] = parameters[i].grad();
        }
      }
    }
  }
}

torch::nn::Sequential make_averaged_net() {
  return torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4),
                               torch::nn::Linear(4, 2));
}

void set_values(torch::nn::Sequential& model, const TensorsByName& given, int update) {
  const torch::NoGradGuard no_gradients;
  const std::string prefix = "model." + std::to_string(update) + ".";
  for (const auto& item : model->named_parameters()) {
    item.value().copy_(given.at(prefix + item.key()));
  }
  for (const auto& item : model->named_buffers()) {
    item.value().copy_(given.at(prefix + item.key()));
  }
}

void average_all(const std::string& folder, const TensorsByName& given, TensorsByName& found) {
  using Options = optim::AveragedModelOptions;
  const auto ema = optim::get_ema_multi_avg_fn(0.9);
  const std::map<std::string, Options> kinds{
      {"ema", Options().multi_avg_fn(ema)},
      {"ema_buffers", Options().multi_avg_fn(ema).use_buffers(true)},
      {"swa", Options()},
      {"swa_buffers", Options().use_buffers(true)},
      {"swa_multi", Options().multi_avg_fn(optim::get_swa_multi_avg_fn())}};
  for (const auto& [kind, options] : kinds) {
    auto model = make_averaged_net();
    optim::AveragedModel average(model, options);
    for (int update = 0; update < kAverageUpdates; ++update) {
      set_values(model, given, update);
      average.update();
    }
    for (const auto& [name, tensor] : average.state()) {
      found.emplace(kind + "." + name, tensor.clone());
    }
    if (kind == "ema") training::save_safetensors(folder + "/ema.safetensors", average.state());
  }
}

void make_statistics(const TensorsByName& given, TensorsByName& found) {
  auto model = make_averaged_net();
  set_values(model, given, 0);
  std::vector<Tensor> batches;
  for (int i = 0; i < 5; ++i) batches.push_back(given.at("batch." + std::to_string(i)));
  optim::update_bn(batches, model);
  for (const auto& item : model->named_parameters()) {
    found.emplace("bn." + item.key(), item.value().detach());
  }
  for (const auto& item : model->named_buffers()) found.emplace("bn." + item.key(), item.value());
}

TEST(AmpPythonParity, ComputesWhatPythonComputes) {
  const char* set = std::getenv("LOCKSTEP_PARITY_FOLDER");
  if (set == nullptr) GTEST_SKIP() << "amp_parity_driver.py starts this test";
  torch::set_num_threads(1);
  const std::string folder = set;
  const auto given = training::load_safetensors(folder + "/given.safetensors");
  TensorsByName found;
  for (const ScalerCase& its : scaler_cases()) trace_scaler(folder, its, given, found);
  clip_all(given, found);
  average_all(folder, given, found);
  make_statistics(given, found);
  training::save_safetensors(folder + "/cpp.safetensors", found);
}

}  // namespace
}  // namespace lockstep::testing
