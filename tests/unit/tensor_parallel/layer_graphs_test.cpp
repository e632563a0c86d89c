// SPDX-License-Identifier: BSD-3-Clause
// Ways to use the graph of parallel layers other than one backward of everything.
#include <lockstep/amp/grad_scaler.h>

#include <cmath>

#include "parallel_pair.h"

namespace lockstep::testing {
namespace {

class LayerGraphs : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, LayerGraphs, ::testing::Values(1, 2, 3));

using Forward = std::function<torch::Tensor(const torch::Tensor&)>;
/// Computes gradients of the sum of the products of the result and the weights.
using Use = std::function<void(const Forward&, torch::Tensor& x, const torch::Tensor& weights)>;

void expect_pair_used_as_plain(const GroupPointer& group, bool sequence, const Use& use,
                               bool is_frozen = false, const Activation& between = {}) {
  PlainPair plain(true);
  Pair pair(group, PairCase{true, sequence, false});
  plain->to(torch::kDouble);
  pair->to(torch::kDouble);
  fill_model(*plain, false);
  nn::load_full_state(pair, training::state_of(*plain));
  if (between) plain->between = pair->between = between;
  if (is_frozen) {
    plain->up->weight.requires_grad_(false);
    pair->up->weight.requires_grad_(false);
  }
  const auto make = [] { return fractions({12, 2, 6}, 1); };
  const auto weights = fractions({12, 2, 6}, 2);
  auto input = make().requires_grad_(true);
  use([&](const torch::Tensor& x) { return plain->forward(x); }, input, weights);
  auto own = part_of(make(), sequence, group).clone().requires_grad_(true);
  use([&](const torch::Tensor& x) { return pair->forward(x); }, own,
      part_of(weights, sequence, group));
  ASSERT_EQ(own.grad().defined(), input.grad().defined());
  if (own.grad().defined()) {
    EXPECT_LE(relative_difference(own.grad(), part_of(input.grad(), sequence, group)),
              kDoubleRounding);
  }
  EXPECT_EQ(pair->up->weight.grad().defined(), plain->up->weight.grad().defined());
  expect_same(full_gradients(*pair), gradients_of(*plain), kDoubleRounding);
}

void use_once(const Forward& forward, torch::Tensor& x, const torch::Tensor& weights) {
  (forward(x) * weights).sum().backward();
}

TEST_P(LayerGraphs, AreRecomputedByACheckpoint) {
  run([](const GroupPointer& group) {
    for (const bool sequence : {false, true}) {
      expect_pair_used_as_plain(
          group, sequence, [](const Forward& forward, torch::Tensor& x, const auto& weights) {
            use_once([&](const torch::Tensor& y) { return lockstep::checkpoint(forward, y); }, x,
                     weights);
          });
    }
  });
}

TEST_P(LayerGraphs, LeaveOutWhatNeedsNoGradient) {
  run([](const GroupPointer& group) {
    for (const bool sequence : {false, true}) {
      expect_pair_used_as_plain(group, sequence, use_once, /*is_frozen=*/true);
      const Use of_parameters = [](const Forward& forward, torch::Tensor& x, const auto& weights) {
        x = x.detach();
        use_once(forward, x, weights);
      };
      expect_pair_used_as_plain(group, sequence, of_parameters, /*is_frozen=*/true);
      expect_pair_used_as_plain(group, sequence, of_parameters);
      expect_pair_used_as_plain(
          group, sequence, [](const Forward& forward, torch::Tensor& x, const auto& weights) {
            x.mutable_grad() = torch::autograd::grad({(forward(x) * weights).sum()}, {x})[0];
          });
    }
  });
}

TEST_P(LayerGraphs, CanBeRetained) {
  run([](const GroupPointer& group) {
    for (const bool sequence : {false, true}) {
      expect_pair_used_as_plain(group, sequence,
                                [](const Forward& forward, torch::Tensor& x, const auto& weights) {
                                  const auto sum = (forward(x) * weights).sum();
                                  sum.backward({}, /*retain_graph=*/true);
                                  sum.backward();
                                });
    }
  });
}

TEST_P(LayerGraphs, TakeInputsWithAnyStrides) {
  run([](const GroupPointer& group) {
    for (const bool sequence : {false, true}) {
      expect_pair_used_as_plain(
          group, sequence, [](const Forward& forward, torch::Tensor& x, const auto& weights) {
            use_once(
                [&](const torch::Tensor& y) {
                  return forward(y.transpose(0, 1).contiguous().transpose(0, 1));
                },
                x, weights);
          });
    }
  });
}

TEST_P(LayerGraphs, LetResultsBeChangedInPlace) {
  run([](const GroupPointer& group) {
    const Use changes_result = [](const Forward& forward, torch::Tensor& x, const auto& weights) {
      use_once([&](const torch::Tensor& y) { return forward(y).relu_(); }, x, weights);
    };
    for (const bool sequence : {false, true}) {
      expect_pair_used_as_plain(group, sequence, changes_result, false,
                                [](torch::Tensor x) { return torch::relu_(x); });
    }
    // Results of the functions that layers consist of, too.
    namespace regions = lockstep::tensor_parallel;
    auto x = fractions({12, 12}, 3).requires_grad_(true);
    const auto y = x * 1;
    regions::reduce_from(y, group).relu_().sum().backward();
    EXPECT_TRUE(torch::equal(x.grad(), (x.detach() > 0).to(torch::kDouble)));
    for (const std::int64_t dim : {0, 1}) {
      regions::gather_from(x * 1, group, dim).relu_();
      regions::scatter_to(x * 1, group, dim).relu_();
      regions::reduce_scatter_to_sequence(x * 1, group, dim).relu_();
    }
  });
}

TEST_P(LayerGraphs, SkipAStepTogetherWhereOneShardOverflows) {
  run([](const GroupPointer& group) {
    Pair pair(group, PairCase{true, false, false});
    fill_model(*pair, true);
    torch::optim::SGD optimizer(pair->parameters(), 0.1);
    amp::GradScaler scaler(amp::GradScalerOptions().init_scale(8).group(group));
    const auto before = nn::full_state(pair);
    scaler.scale(pair->forward(torch::ones({4, 6})).sum()).backward();
    if (group->rank() == group->size() - 1) pair->up->weight.grad()[0][0].fill_(INFINITY);
    EXPECT_FALSE(scaler.step(optimizer));
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 4);
    expect_same(nn::full_state(pair), before, 0);
  });
}

}  // namespace
}  // namespace lockstep::testing
