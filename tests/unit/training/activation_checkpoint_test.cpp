// SPDX-License-Identifier: BSD-3-Clause
// Checkpointed functions against the same functions without a checkpoint.
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>

namespace lockstep::testing {
namespace {

using torch::Tensor;

Tensor make_values(torch::IntArrayRef sizes, double phase = 0) {
  return torch::sin(torch::arange(c10::multiply_integers(sizes), torch::kDouble) * 0.3 + phase)
      .view(sizes);
}

Tensor make_leaf(torch::IntArrayRef sizes, double phase = 0) {
  return make_values(sizes, phase).requires_grad_(true);
}

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

TEST(Checkpoint, GivesTheGradientsOfInputsAndOfWhatTheFunctionCaptures) {
  const auto x = make_leaf({4, 3});
  const auto y = make_leaf({4, 3}, 1);
  const auto no_gradient = make_values({4, 3}, 2);
  const auto weight = make_leaf({3, 3}, 3);
  const auto scale = make_leaf({3}, 4);
  const auto not_a_leaf = (scale * 2).exp();
  const auto function = [&](const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
    EXPECT_FALSE(d.defined());
    return torch::tanh(a.matmul(weight) * b + c) * not_a_leaf + y.sin();
  };
  const std::vector<Tensor> leaves{x, y, weight, scale};
  const auto expected = torch::autograd::grad({function(x, y, no_gradient, Tensor()).pow(2).sum()},
                                              leaves, {}, /*retain_graph=*/true);
  int runs = 0;
  const auto counted = [&](const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
    ++runs;
    return function(a, b, c, d);
  };
  const auto output = checkpoint(counted, x, y, no_gradient, Tensor());
  EXPECT_TRUE(torch::equal(output, function(x, y, no_gradient, Tensor())));
  output.pow(2).sum().backward();
  EXPECT_EQ(runs, 2);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_TRUE(torch::allclose(leaves[i].grad(), expected[i])) << i;
  }
  EXPECT_FALSE(no_gradient.grad().defined());
}

TEST(Checkpoint, GivesGradientsWhereNoInputNeedsOne) {
  torch::nn::Linear layer(3, 2);
  checkpoint([&](const Tensor& x) { return layer(x); }, torch::ones({4, 3})).sum().backward();
  EXPECT_TRUE(torch::equal(layer->weight.grad(), torch::full({2, 3}, 4.0F)));
  EXPECT_TRUE(torch::equal(layer->bias.grad(), torch::full({2}, 4.0F)));
  // A captured tensor alone.
  const auto captured = make_leaf({3});
  checkpoint([&] { return captured * 3; }).sum().backward();
  EXPECT_TRUE(torch::equal(captured.grad(), torch::full({3}, 3.0, torch::kDouble)));
}

/// Knows whether the tensor's memory is still there.
c10::weak_intrusive_ptr<c10::StorageImpl> watch(const Tensor& tensor) {
  return tensor.storage().getWeakStorageImpl();
}

/// Activations of eight layers that are in memory when forward has ended.
int activations_alive(bool is_checkpointed) {
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> activations;
  const auto layer = [&](const Tensor& x) {
    const auto wide = torch::tanh(x.repeat({1, 8}));  // saved for the backward of tanh
    activations.push_back(watch(wide));
    return wide.narrow(1, 0, x.size(1)) * 2;
  };
  Tensor x = make_leaf({16, 16});
  for (int i = 0; i < 8; ++i) x = is_checkpointed ? checkpoint(layer, x) : layer(x);
  int alive = 0;
  for (const auto& activation : activations) alive += activation.expired() ? 0 : 1;
  x.sum().backward();
  return alive;
}

TEST(Checkpoint, KeepsNoActivations) {
  EXPECT_EQ(activations_alive(false), 8);
  EXPECT_EQ(activations_alive(true), 0);
}

TEST(Checkpoint, FreesTheActivationsOfOnePartBeforeItComputesTheNext) {
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> activations;
  int most = 0;
  const auto layer = [&](const Tensor& x) {
    const auto wide = torch::tanh(x * 3);
    activations.push_back(watch(wide));
    int alive = 0;
    for (const auto& activation : activations) alive += activation.expired() ? 0 : 1;
    most = std::max(most, alive);
    return wide * 2;
  };
  Tensor x = make_leaf({4});
  for (int i = 0; i < 8; ++i) x = checkpoint(layer, x);
  x.sum().backward();
  EXPECT_EQ(activations.size(), 16);
  EXPECT_EQ(most, 1);
}

TEST(Checkpoint, ReturnsWhatTheFunctionReturns) {
  const auto x = make_leaf({3});
  const auto [first, rest] = checkpoint(
      [](const Tensor& a) {
        return std::make_tuple(a * 2, std::vector<Tensor>{a.exp(), Tensor(), a.argmax()});
      },
      x);
  EXPECT_TRUE(first.requires_grad());
  EXPECT_FALSE(rest[1].defined());
  EXPECT_EQ(rest[2].scalar_type(), torch::kLong);
  EXPECT_FALSE(rest[2].requires_grad());
  rest[0].sum().backward();  // one of them is enough
  EXPECT_TRUE(torch::allclose(x.grad(), x.exp()));

  const auto pair = checkpoint([](const Tensor& a) { return std::pair(a, a.detach()); }, x);
  x.mutable_grad() = Tensor();
  EXPECT_FALSE(pair.second.requires_grad());
  (pair.first * 3).sum().backward();  // an input as it is
  EXPECT_TRUE(torch::equal(x.grad(), torch::full({3}, 3.0, torch::kDouble)));
  const auto list = checkpoint([](const Tensor& a) { return std::vector<Tensor>{a + 1, a}; }, x);
  EXPECT_EQ(list.size(), 2);
  EXPECT_EQ(checkpoint([](const Tensor&) { return std::vector<Tensor>(); }, x).size(), 0);
}

TEST(Checkpoint, TakesModules) {
  torch::nn::Sequential net(torch::nn::Linear(3, 4), torch::nn::ReLU(), torch::nn::Linear(4, 2));
  const auto x = torch::ones({5, 3}, torch::kFloat);
  net->forward(x).sum().backward();
  const auto expected = net->parameters()[0].grad().clone();
  net->zero_grad();
  checkpoint([net](const Tensor& a) mutable { return net->forward(a); }, x).sum().backward();
  EXPECT_TRUE(torch::equal(net->parameters()[0].grad(), expected));
  torch::nn::Linear layer(3, 2);
  checkpoint(layer, x).sum().backward();
  EXPECT_TRUE(layer->weight.grad().defined());
}

TEST(Checkpoint, DrawsTheSameRandomNumbersUnlessToldNotTo) {
  const auto x = torch::ones({1000}).requires_grad_(true);
  const auto dropout = [](const Tensor& a) { return torch::dropout(a, 0.5, true); };
  torch::manual_seed(5);
  const auto output = checkpoint(dropout, x);
  const auto between = torch::rand({3});
  output.sum().backward();
  EXPECT_TRUE(torch::equal(x.grad(), output.detach()));  // the mask times 2, both times
  const auto after = torch::rand({3});
  // The second run leaves no trace in the generator.
  torch::manual_seed(5);
  dropout(x);
  EXPECT_TRUE(torch::equal(torch::rand({3}), between));
  EXPECT_TRUE(torch::equal(torch::rand({3}), after));

  x.mutable_grad() = Tensor();
  const auto other = checkpoint(CheckpointOptions().preserve_random_state(false), dropout, x);
  other.sum().backward();
  EXPECT_FALSE(torch::equal(x.grad(), other.detach()));
}

struct Autocast {
  Autocast() {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_cache_enabled(true);
  }
  ~Autocast() {
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
};

TEST(Checkpoint, KeepsAutocastAlsoWhereItsCacheHasTheWeights) {
  torch::nn::Linear layer(8, 8);
  const auto x = torch::sin(torch::arange(32.0)).view({4, 8});
  std::vector<torch::ScalarType> dtypes;
  const auto function = [&](const Tensor& a) {
    const auto output = layer(a);
    dtypes.push_back(output.scalar_type());
    return torch::tanh(output);
  };
  std::vector<Tensor> gradients;
  for (const bool is_checkpointed : {false, true}) {
    layer->zero_grad();
    Tensor output;
    {
      const Autocast autocast;
      const auto before = layer(x);  // fills the cache
      output = before + (is_checkpointed ? checkpoint(function, x) : function(x));
    }
    output.to(torch::kFloat).pow(2).sum().backward();
    gradients.push_back(layer->weight.grad().clone());
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
    EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
  }
  EXPECT_EQ(dtypes, (std::vector<torch::ScalarType>(3, torch::kBFloat16)));
  EXPECT_TRUE(torch::allclose(gradients[0], gradients[1], 1e-2, 1e-2));
}

TEST(Checkpoint, MayBeNested) {
  const auto x = make_leaf({4});
  const auto weight = make_leaf({4}, 1);
  int inner_runs = 0;
  const auto inner = [&](const Tensor& a) {
    ++inner_runs;
    return torch::tanh(a * weight);
  };
  const auto outer = [&](const Tensor& a) {
    Tensor result = a;
    for (int i = 0; i < 3; ++i) result = checkpoint(inner, result) + a;
    return result;
  };
  const auto twice = [&](const Tensor& a) { return checkpoint(outer, checkpoint(outer, a)); };
  const auto plain = [&](const Tensor& a) {
    Tensor result = a;
    for (int i = 0; i < 3; ++i) result = torch::tanh(result * weight) + a;
    return result;
  };
  const auto expected = torch::autograd::grad({plain(plain(x)).sum()}, {x, weight});
  twice(x).sum().backward();
  EXPECT_EQ(inner_runs, 6 * 3);
  EXPECT_TRUE(torch::allclose(x.grad(), expected[0]));
  EXPECT_TRUE(torch::allclose(weight.grad(), expected[1]));
}

TEST(Checkpoint, RunsHooksOfAParameterOnceHoweverManyCheckpointsUseIt) {
  const auto weight = make_leaf({4});
  int calls = 0;
  weight.register_hook([&](const Tensor& gradient) {
    ++calls;
    return gradient * 10;
  });
  Tensor x = make_values({4}, 1);
  const auto part = [&](const Tensor& a) { return torch::tanh(a * weight); };
  for (int i = 0; i < 3; ++i) x = checkpoint(part, x);
  x.sum().backward();
  EXPECT_EQ(calls, 1);
  const auto copy = weight.detach().clone().requires_grad_(true);
  Tensor y = make_values({4}, 1);
  for (int i = 0; i < 3; ++i) y = torch::tanh(y * copy);
  y.sum().backward();
  EXPECT_TRUE(torch::allclose(weight.grad(), copy.grad() * 10));
}

TEST(Checkpoint, WorksWithAutogradGradAndLeavesOtherGradientsAlone) {
  const auto x = make_leaf({4});
  const auto weight = make_leaf({4}, 1);
  const auto part = [&](const Tensor& a) { return (a * weight).exp(); };
  const auto output = checkpoint(part, x).sum();
  const auto of_x = torch::autograd::grad({output}, {x}, {}, /*retain_graph=*/true)[0];
  const auto of_weight = torch::autograd::grad({output}, {weight}, {}, /*retain_graph=*/true)[0];
  EXPECT_TRUE(torch::allclose(of_x, weight * (x * weight).exp()));
  EXPECT_TRUE(torch::allclose(of_weight, x * (x * weight).exp()));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  output.backward();  // a third time
  EXPECT_TRUE(torch::allclose(x.grad(), of_x));
  EXPECT_THROW(output.backward(), c10::Error);  // the graph is gone
}

TEST(Checkpoint, CanBeDifferentiatedTwice) {
  const auto weight = make_leaf({4}, 1);
  const auto part = [&](const Tensor& a) { return torch::tanh(a * a * weight).exp(); };
  std::vector<Tensor> results;
  for (const bool is_checkpointed : {false, true}) {
    const auto x = make_leaf({4});
    const auto scaled = x * 2;
    const auto output = is_checkpointed ? checkpoint(part, scaled) : part(scaled);
    const auto first = torch::autograd::grad({output.sum()}, {x}, {}, true, true)[0];
    const auto second = torch::autograd::grad({first.pow(2).sum()}, {x, weight});
    results.insert(results.end(), {first.detach(), second[0], second[1]});
  }
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::allclose(results[i], results[i + 3])) << i;
}

TEST(Checkpoint, OnlyCallsTheFunctionWhereGradientsAreOff) {
  const auto x = make_leaf({4});
  int runs = 0;
  const auto part = [&](const Tensor& a) {
    ++runs;
    EXPECT_TRUE(a.is_same(x));
    return a * 2;
  };
  {
    const torch::NoGradGuard no_grad;
    EXPECT_FALSE(checkpoint(part, x).requires_grad());
  }
  {
    const c10::InferenceMode inference;
    EXPECT_TRUE(checkpoint(part, x).is_inference());
  }
  EXPECT_EQ(runs, 2);
  const auto without = checkpoint([](const Tensor& a) { return a * 2; }, make_values({4}));
  EXPECT_FALSE(without.requires_grad());
}

TEST(Checkpoint, LetsErrorsOfBothRunsThroughAndCanBeRepeated) {
  const auto x = make_leaf({4});
  int runs = 0;
  int failing = 0;
  const auto part = [&](const Tensor& a) {
    if (runs++ == failing) throw std::runtime_error("in the function");
    return a * 2;
  };
  EXPECT_THROW(checkpoint(part, x), std::runtime_error);
  failing = 2;
  const auto output = checkpoint(part, x).sum();
  torch::manual_seed(3);
  EXPECT_THROW(output.backward({}, /*keep_graph=*/true), std::runtime_error);
  const auto drawn = torch::rand({2});
  torch::manual_seed(3);
  EXPECT_TRUE(torch::equal(torch::rand({2}), drawn));  // the generator was set back
  output.backward();
  EXPECT_TRUE(torch::equal(x.grad(), torch::full({4}, 2.0, torch::kDouble)));
}

TEST(Checkpoint, NamesAFunctionThatDoesNotDoTheSameAgain) {
  const auto x = make_leaf({4});
  const auto weight = make_leaf({4}, 1);
  int runs = 0;
  const auto uses_more = [&](const Tensor& a) { return ++runs % 2 == 0 ? a * weight : a * 2; };
  EXPECT_NE(error_of([&] {
              checkpoint(uses_more, x).sum().backward();
            }).find("used a tensor with a gradient"),
            std::string::npos);
  const auto other_size = [&](const Tensor& a) { return ++runs % 2 == 0 ? a.slice(0, 1) : a * 2; };
  EXPECT_NE(error_of([&] { checkpoint(other_size, x).sum().backward(); }).find("result 0"),
            std::string::npos);
  const auto in_place = [](const Tensor& a) { return a.mul_(2); };
  EXPECT_NE(error_of([&] { checkpoint(in_place, make_values({4})); }).find("in place"),
            std::string::npos);
  // An input that is changed between the two runs.
  const auto input = make_values({4});
  const auto output = checkpoint([&](const Tensor& a) { return a * weight; }, input);
  input.mul_(2);
  EXPECT_NE(error_of([&] { output.sum().backward(); }).find("inplace operation"),
            std::string::npos);
}

TEST(Checkpoint, MayUseTensorsThatAnotherThreadComputed) {
  const auto weight = make_leaf({4}, 1);
  Tensor computed;
  // More nodes than this thread has made.
  std::thread([&] {
    computed = weight;
    for (int i = 0; i < 20000; ++i) computed = computed + 0.0001;
  }).join();
  const auto x = make_leaf({4});
  checkpoint([&](const Tensor& a) { return a * computed; }, x).sum().backward();
  EXPECT_TRUE(torch::allclose(weight.grad(), x.detach()));
  EXPECT_TRUE(torch::allclose(x.grad(), computed.detach()));
}

TEST(Checkpoint, MayChangeItsOwnTensorsInPlace) {
  const auto x = make_leaf({4, 4});
  const auto weight = make_leaf({4}, 1);
  const auto part = [&](const Tensor& a) {
    auto b = a * 2;
    b.select(0, 1).mul_(weight);
    b.narrow(1, 0, 2).copy_(weight.narrow(0, 0, 2).expand({4, 2}));
    return b.relu_();
  };
  const auto expected = torch::autograd::grad({part(x).pow(2).sum()}, {x, weight});
  checkpoint(part, x).pow(2).sum().backward();
  EXPECT_TRUE(torch::allclose(x.grad(), expected[0]));
  EXPECT_TRUE(torch::allclose(weight.grad(), expected[1]));
}

}  // namespace
}  // namespace lockstep::testing
