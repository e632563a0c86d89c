// SPDX-License-Identifier: BSD-3-Clause
// The backward in two parts against LibTorch's own in one, on graphs of many kinds.
#include "pipeline/runtime/graph_split.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/runtime/microbatch_graph.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using pipeline::MicrobatchGraph;

/// Counts how often its backward runs.
struct CountedSquare : torch::autograd::Function<CountedSquare> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x,
                               const torch::Tensor& weight) {
    context->save_for_backward({x, weight});
    return x * x * weight;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    ++calls;
    const auto saved = context->get_saved_variables();
    return {gradients[0] * 2 * saved[0] * saved[1], (gradients[0] * saved[0] * saved[0]).sum(0)};
  }
  static int calls;
};
int CountedSquare::calls = 0;

struct Parameters {
  explicit Parameters(int count) {
    for (int i = 0; i < count; ++i) {
      all.push_back((torch::sin(torch::arange(16, torch::kFloat) * 0.7 + i) * 0.5)
                        .view({4, 4})
                        .requires_grad_());
    }
  }
  std::vector<torch::Tensor> all;
};

using Net = std::function<torch::Tensor(const torch::Tensor&, std::vector<torch::Tensor>&)>;
struct Case {
  const char* name;
  Net net;
  /// Whether the first part leaves something for the second one.
  bool is_split = true;
};
std::ostream& operator<<(std::ostream& out, const Case& one) {
  return out << one.name;
}

torch::Tensor layer(const torch::Tensor& x, const torch::Tensor& weight) {
  return torch::tanh(torch::nn::functional::linear(x, weight, weight.select(0, 0).detach()));
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"chain", [](auto x, auto& w) { return layer(layer(layer(x, w[0]), w[1]), w[2]); }},
      {"residual", [](auto x, auto& w) { return x + layer(x + layer(x, w[0]), w[1]); }},
      // One weight in two products.
      {"tied", [](auto x, auto& w) { return layer(layer(layer(x, w[0]), w[1]), w[0]); }},
      // The same node for the weight in two products.
      {"tied_node",
       [](auto x, auto& w) {
         const auto turned = w[0].t();
         return torch::mm(torch::tanh(torch::mm(x, turned)), turned) + layer(x, w[1]);
       }},
      // The weight itself, without a node between.
      {"tied_leaf", [](auto x, auto& w) { return torch::mm(torch::mm(x, w[0]), w[0]); }},
      // Where edges leave the paths, one place leads to another one: nothing can be put off.
      {"entangled",
       [](auto x, auto& w) {
         const auto doubled = w[0] * 2;
         return torch::mm(torch::mm(x, doubled), w[0]) + layer(x, w[1]);
       },
       false},
      // A part that does not depend on the input.
      {"side", [](auto x, auto& w) { return layer(x, w[0]) + torch::mm(w[1], w[2]).sum(0); }},
      {"elementwise",
       [](auto x, auto& w) { return (x * w[0] + w[1]).sigmoid() / (w[2] * w[2] + 1); }},
      {"norm",
       [](auto x, auto& w) {
         return layer(torch::layer_norm(x, {4}, w[0].select(0, 0), w[1].select(0, 0)), w[2]);
       }},
      {"unused_weight", [](auto x, auto& w) { return layer(layer(x, w[0]), w[2]); }},
      {"batched",
       [](auto x, auto& w) {
         return torch::bmm(x.unsqueeze(0), w[0].unsqueeze(0)).squeeze(0) + torch::matmul(x, w[1]);
       }},
      {"convolution",
       [](auto x, auto& w) {
         return torch::conv1d(torch::tanh(torch::conv1d(x.unsqueeze(0), w[0].unsqueeze(2))),
                              w[1].view({4, 4, 1}))
             .squeeze(0);
       }},
      {"function_of_the_program",
       [](auto x, auto& w) {
         return layer(CountedSquare::apply(layer(x, w[0]), w[1].select(0, 1)), w[2]);
       }},
      {"recomputed",
       [](auto x, auto& w) {
         const auto inner = [&w](const torch::Tensor& y) { return layer(layer(y, w[0]), w[1]); };
         return layer(checkpoint(inner, x), w[2]);
       }},
      {"in_place",
       [](auto x, auto& w) {
         return layer(torch::nn::functional::linear(x, w[0]).mul_(2).add_(w[1]), w[2]);
       }},
      {"frozen", [](auto x, auto& w) { return layer(layer(x, w[0].detach()), w[1]); }},
  };
  return all;
}

class SplitBackward : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Graphs, SplitBackward, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return std::string(one.param.name); });

torch::Tensor input_of(int microbatch) {
  return torch::cos(torch::arange(16, torch::kFloat) * 0.3 + microbatch)
      .view({4, 4})
      .requires_grad_();
}
torch::Tensor gradient_of(int microbatch) {
  return torch::sin(torch::arange(16, torch::kFloat) * 0.9 + microbatch).view({4, 4});
}

TEST_P(SplitBackward, GivesTheBitsOfOneBackward) {
  Parameters whole(3), split(3);
  // Several microbatches at once, whose second parts come late.
  std::vector<MicrobatchGraph> graphs;
  for (int i = 0; i < 3; ++i) {
    const auto input = input_of(i);
    GetParam().net(input, whole.all).backward(gradient_of(i));
    const auto other = input_of(i);
    graphs.emplace_back(std::vector<torch::Tensor>{other},
                        std::vector<torch::Tensor>{GetParam().net(other, split.all)});
    graphs.back().backward_input({gradient_of(i)});
    const auto gradients = graphs.back().take_input_gradients();
    ASSERT_EQ(gradients.size(), 1U);
    EXPECT_TRUE(torch::equal(gradients[0], input.grad())) << i;
  }
  if (GetParam().is_split) {
    for (const auto& parameter : split.all) EXPECT_FALSE(parameter.grad().defined());
  }
  CountedSquare::calls = 0;
  for (auto& graph : graphs) graph.backward_weight();
  EXPECT_EQ(CountedSquare::calls, 0);
  for (std::size_t i = 0; i < whole.all.size(); ++i) {
    ASSERT_EQ(whole.all[i].grad().defined(), split.all[i].grad().defined()) << i;
    if (whole.all[i].grad().defined()) {
      EXPECT_TRUE(torch::equal(whole.all[i].grad(), split.all[i].grad()))
          << i << whole.all[i].grad() << split.all[i].grad();
    }
  }
}

thread_local std::vector<std::string>* recorded = nullptr;

TEST(SplitBackwards, PutsOffTheProductsForTheWeights) {
  Parameters parameters(2);
  const auto x = input_of(0);
  MicrobatchGraph graph({x}, {layer(layer(x, parameters.all[0]), parameters.all[1])});
  std::vector<std::string> seen;
  const auto count = [&] {
    const auto products = std::count(seen.begin(), seen.end(), "aten::mm");
    seen.clear();
    return products;
  };
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback(
      [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        auto* names = recorded;
        if (names != nullptr) names->emplace_back(function.name());
        return nullptr;
      }));
  recorded = &seen;
  graph.backward_input({gradient_of(0)});
  EXPECT_EQ(count(), 2);
  graph.backward_weight();
  EXPECT_EQ(count(), 2);
  recorded = nullptr;
  at::removeCallback(handle);
}

TEST(SplitBackwards, WithoutAnInputThatNeedsAGradientComesAsAWholeInTheSecondPart) {
  Parameters parameters(1);
  MicrobatchGraph graph({torch::ones({4, 4})}, {layer(torch::ones({4, 4}), parameters.all[0])});
  graph.backward_input({gradient_of(0)});
  EXPECT_TRUE(graph.take_input_gradients().empty());
  EXPECT_FALSE(parameters.all[0].grad().defined());
  graph.backward_weight();
  EXPECT_TRUE(parameters.all[0].grad().defined());
}

TEST(SplitBackwards, RunsHooksOfTensorsOnWhatTheyReturn) {
  for (const bool is_split : {false, true}) {
    Parameters parameters(2);
    const auto x = input_of(0);
    const auto middle = torch::nn::functional::linear(x, parameters.all[0]);
    middle.register_hook([](const torch::Tensor& gradient) { return gradient * 2; });
    MicrobatchGraph graph({x}, {layer(middle, parameters.all[1])});
    if (is_split) {
      graph.backward_input({gradient_of(0)});
      graph.backward_weight();
    } else {
      graph.backward({gradient_of(0)});
    }
    static torch::Tensor expected;
    if (!is_split) expected = parameters.all[0].grad();
    EXPECT_TRUE(torch::equal(parameters.all[0].grad(), expected));
  }
}

TEST(SplitBackwards, CountOutputsThatDependOnParametersAlone) {
  for (const bool is_leaf : {false, true}) {
    Parameters whole(2), split(2);
    const auto outputs = [is_leaf](const torch::Tensor& x, const Parameters& parameters) {
      const auto& weight = parameters.all[1];
      return std::vector<torch::Tensor>{layer(x, parameters.all[0]),
                                        is_leaf ? weight : weight.exp()};
    };
    const auto x = input_of(0), other = input_of(0);
    torch::autograd::backward(outputs(x, whole), {gradient_of(0), gradient_of(1)});
    MicrobatchGraph graph({other}, outputs(other, split));
    graph.backward_input({gradient_of(0), gradient_of(1)});
    const auto gradients = graph.take_input_gradients();
    ASSERT_EQ(gradients.size(), 1U);
    EXPECT_TRUE(torch::equal(gradients[0], x.grad()));
    graph.backward_weight();
    for (std::size_t i = 0; i < whole.all.size(); ++i) {
      ASSERT_TRUE(split.all[i].grad().defined()) << i;
      EXPECT_TRUE(torch::equal(split.all[i].grad(), whole.all[i].grad())) << i;
    }
  }
}

TEST(SplitBackwards, OfAStageThatReturnsItsInput) {
  const auto x = input_of(0);
  MicrobatchGraph graph({x}, {x});
  graph.backward_input({gradient_of(0)});
  const auto gradients = graph.take_input_gradients();
  ASSERT_EQ(gradients.size(), 1U);
  EXPECT_TRUE(torch::equal(gradients[0], gradient_of(0)));
  graph.backward_weight();
}

}  // namespace
}  // namespace lockstep::testing
