// SPDX-License-Identifier: BSD-3-Clause
// The C++ side of tests/python/optim_parity_driver.py, which compares what this writes.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::optim {
namespace {

using training::load_optimizer;
using training::load_state;
using training::save_optimizer;
using training::save_state;

constexpr int kSteps = 100;
constexpr int kMiddle = 50;

/// As `Net` of the driver: parameters of many shapes, one of them so large that it is cut.
struct ManyShapesImpl : torch::nn::Module {
  ManyShapesImpl(bool only_matrices, torch::ScalarType type) {
    const std::vector<std::vector<std::int64_t>> shapes =
        only_matrices ? std::vector<std::vector<std::int64_t>>{{24, 17}, {9, 40}, {33, 33}, {8, 8}}
                      : std::vector<std::vector<std::int64_t>>{{70001}, {3, 5},       {64, 33},
                                                               {},      {8, 4, 3, 3}, {129}};
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      std::int64_t elements = 1;
      for (const auto size : shapes[i]) elements *= size;
      const auto value = torch::arange(elements, torch::kDouble).mul(0.11).add(double(i)).cos();
      all.push_back(register_parameter("p" + std::to_string(i), value.reshape(shapes[i]).to(type)));
    }
  }
  std::vector<torch::Tensor> all;
};
TORCH_MODULE(ManyShapes);

struct OptionSet {
  std::function<std::unique_ptr<Optimizer>(ManyShapes&)> make;
  bool only_matrices = false;
  bool starts_late = true;
  torch::ScalarType type = torch::kFloat;
};

template <class Kind, class Options>
OptionSet set_of(const Options& options) {
  OptionSet set;
  set.make = [=](ManyShapes& net) { return std::make_unique<Kind>(net->parameters(), options); };
  return set;
}
OptionSet sgd(const SGDOptions& options) {
  auto set = set_of<SGD>(options);
  set.starts_late = !options.fused();  // Python's fused SGD cannot do it
  return set;
}
OptionSet muon(const MuonOptions& options) {
  auto set = set_of<Muon>(options);
  set.only_matrices = true;
  return set;
}
OptionSet of_type(OptionSet set, torch::ScalarType type) {
  set.type = type;
  return set;
}
OptionSet adamw_groups() {
  OptionSet set;
  set.make = [](ManyShapes& net) {
    return std::make_unique<AdamW>(no_decay_groups(net, 0.2), AdamWOptions(2e-3).eps(1e-7));
  };
  return set;
}

/// As `OPTION_SETS` of the driver.
const std::map<std::string, OptionSet>& option_sets() {
  static const std::map<std::string, OptionSet> all{
      {"sgd", sgd(SGDOptions(0.1))},
      {"sgd_momentum", sgd(SGDOptions(0.1).momentum(0.9).dampening(0.1).weight_decay(1e-2))},
      {"sgd_nesterov", sgd(SGDOptions(0.1).momentum(0.9).weight_decay(1e-2).nesterov(true))},
      {"sgd_maximize", sgd(SGDOptions(0.1).momentum(0.5).weight_decay(1e-2).maximize(true))},
      {"sgd_loop", sgd(SGDOptions(0.1).momentum(0.9).dampening(0.1).fused(false))},
      {"sgd_loop_nesterov",
       sgd(SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(1e-2).maximize(true).fused(
           false))},
      {"adam", set_of<Adam>(AdamOptions())},
      {"adam_decay",
       set_of<Adam>(AdamOptions(0.01).betas({0.8, 0.99}).eps(1e-7).weight_decay(0.01))},
      {"adam_amsgrad", set_of<Adam>(AdamOptions(0.01).amsgrad(true).maximize(true))},
      {"adam_loop",
       set_of<Adam>(
           AdamOptions(0.01).amsgrad(true).weight_decay(0.01).maximize(true).fused(false))},
      {"adamw", set_of<AdamW>(AdamWOptions())},
      {"adamw_amsgrad", set_of<AdamW>(AdamWOptions(0.01).weight_decay(0.1).amsgrad(true))},
      {"adamw_loop", set_of<AdamW>(AdamWOptions(0.01).weight_decay(0.1).fused(false))},
      {"adamw_groups", adamw_groups()},
      {"adamw_double", of_type(set_of<AdamW>(AdamWOptions(0.01)), torch::kDouble)},
      {"adamw_bfloat16", of_type(set_of<AdamW>(AdamWOptions(0.01)), torch::kBFloat16)},
      {"sgd_half", of_type(sgd(SGDOptions(0.01).momentum(0.9)), torch::kHalf)},
      {"rmsprop", set_of<RMSprop>(RMSpropOptions())},
      {"rmsprop_centered",
       set_of<RMSprop>(RMSpropOptions(0.01).momentum(0.5).centered(true).alpha(0.9))},
      {"rmsprop_decay", set_of<RMSprop>(RMSpropOptions(0.01).weight_decay(0.1).maximize(true))},
      {"adagrad", set_of<Adagrad>(AdagradOptions())},
      {"adagrad_decay", set_of<Adagrad>(AdagradOptions(0.1)
                                            .lr_decay(0.01)
                                            .weight_decay(0.01)
                                            .initial_accumulator_value(0.1)
                                            .maximize(true))},
      {"adagrad_loop",
       set_of<Adagrad>(AdagradOptions(0.1).lr_decay(0.01).weight_decay(0.01).fused(false))},
      {"lamb", set_of<LAMB>(LAMBOptions(0.01))},
      {"lamb_no_decay",
       set_of<LAMB>(LAMBOptions(0.01).weight_decay(0).max_grad_norm(std::nullopt))},
      {"lamb_clipped", set_of<LAMB>(LAMBOptions(0.01)
                                        .weight_decay(0)
                                        .always_adapt(true)
                                        .trust_clip(true)
                                        .bias_correction(false)
                                        .grad_averaging(false)
                                        .max_grad_norm(0.5))},
      {"lars", set_of<LARS>(LARSOptions(0.5))},
      {"lars_momentum", set_of<LARS>(LARSOptions(0.5).momentum(0.9).weight_decay(1e-2))},
      {"lars_clipped",
       set_of<LARS>(
           LARSOptions(0.01).momentum(0.9).nesterov(true).trust_coeff(0.02).trust_clip(true))},
      {"muon", muon(MuonOptions())},
      {"muon_plain", muon(MuonOptions(0.02).nesterov(false).momentum(0.8).weight_decay(0))},
      {"muon_adamw_rate", muon(MuonOptions(0.02)
                                   .adjust_lr_fn("match_rms_adamw")
                                   .ns_steps(3)
                                   .ns_coefficients({3.0, -4.0, 2.0}))}};
  return all;
}

std::string file(const std::string& set, const std::string& what) {
  return std::string(std::getenv("LOCKSTEP_PARITY_FOLDER")) + "/" + set + "." + what +
         ".safetensors";
}

/// As `train` of the driver: gradients by formula, some of them missing, and a falling rate.
void train(ManyShapes& net, Optimizer& optimizer, const OptionSet& set, int first, int last) {
  for (int step = first; step < last; ++step) {
    for (std::size_t i = 0; i < net->all.size(); ++i) {
      auto& parameter = net->all[i];
      if ((i == 2 && step % 7 == 3) || (i == 1 && set.starts_late && step < 5)) {
        parameter.mutable_grad() = torch::Tensor();
        continue;
      }
      parameter.mutable_grad() = torch::arange(parameter.numel(), torch::kDouble)
                                     .mul(0.37)
                                     .add(0.1 * step + double(i))
                                     .sin()
                                     .reshape(parameter.sizes())
                                     .to(parameter.scalar_type());
    }
    optimizer.step();
    for (auto& group : optimizer.param_groups()) {
      group.options().set_lr(group.options().get_lr() * 0.99);
    }
  }
}

class OptimPythonParity : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (std::getenv("LOCKSTEP_PARITY_FOLDER") == nullptr) {
      GTEST_SKIP() << "tests/python/optim_parity_driver.py starts this";
    }
    set_ = option_sets().at(GetParam());
    net_ = ManyShapes(set_.only_matrices, set_.type);
    optimizer_ = set_.make(net_);
  }

  OptionSet set_;
  ManyShapes net_{nullptr};
  std::unique_ptr<Optimizer> optimizer_;
};
std::vector<std::string> option_set_names() {
  std::vector<std::string> all;
  for (const auto& [name, set] : option_sets()) all.push_back(name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(OptionSets, OptimPythonParity, ::testing::ValuesIn(option_set_names()),
                         [](const auto& test) { return test.param; });

TEST_P(OptimPythonParity, GoesOnWherePythonStopped) {
  if (set_.type == torch::kHalf || set_.type == torch::kBFloat16) {
    GTEST_SKIP() << "Python has no such optimizer";
  }
  load_state(net_, file(GetParam(), "middle"));
  load_optimizer(*optimizer_, net_, file(GetParam(), "optimizer"));
  train(net_, *optimizer_, set_, kMiddle, kSteps);
  save_state(net_, file(GetParam(), "after_python"));
}

TEST_P(OptimPythonParity, StopsWherePythonGoesOn) {
  train(net_, *optimizer_, set_, 0, kMiddle);
  save_state(net_, file(GetParam(), "cpp_middle"));
  save_optimizer(*optimizer_, net_, file(GetParam(), "cpp_optimizer"));
  train(net_, *optimizer_, set_, kMiddle, kSteps);
  save_state(net_, file(GetParam(), "cpp_end"));
}

TEST_P(OptimPythonParity, GoesOnWhereItStoppedItself) {
  train(net_, *optimizer_, set_, 0, kMiddle);
  save_state(net_, file(GetParam(), "own_middle"));
  save_optimizer(*optimizer_, net_, file(GetParam(), "own_optimizer"));
  ManyShapes other(set_.only_matrices, set_.type);
  const auto resumed = set_.make(other);
  // In this order a copy that a state has of a parameter must survive the parameter's own file.
  load_optimizer(*resumed, other, file(GetParam(), "own_optimizer"));
  load_state(other, file(GetParam(), "own_middle"));
  train(other, *resumed, set_, kMiddle, kSteps);
  save_state(other, file(GetParam(), "cpp_resumed"));
}

}  // namespace
}  // namespace lockstep::optim
