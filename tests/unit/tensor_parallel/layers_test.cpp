// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/amp/autocast.h>

#include <random>

#include "parallel_pair.h"

namespace lockstep::testing {
namespace {

using nn::ColumnParallelLinear;
using nn::ParallelLinearOptions;
using nn::RowParallelLinear;

class ParallelLayers : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, ParallelLayers, ::testing::Values(1, 2, 3, 4));

void expect_pair_as_plain(const PairCase& how, bool is_whole, const GroupPointer& group) {
  PlainPair plain(how.bias);
  fill_model(*plain, is_whole);
  Pair pair(group, how);
  nn::load_full_state(pair, training::state_of(*plain));
  const double tolerance = is_whole ? 0 : kRounding;
  const auto make = [&](std::int64_t seed) {
    return is_whole ? whole_numbers({12, 2, 6}, seed) : fractions({12, 2, 6}, seed, torch::kFloat);
  };
  auto input = make(1).requires_grad_(true);
  const auto expected = plain->forward(input);
  expected.backward(make(2));
  auto own = part_of(make(1), how.sequence, group).clone().requires_grad_(true);
  const auto actual = pair->forward(own);
  actual.backward(part_of(make(2), how.sequence, group));
  const auto compare = [&](const torch::Tensor& ours, const torch::Tensor& theirs) {
    const auto part = part_of(theirs, how.sequence, group);
    ASSERT_EQ(ours.sizes(), part.sizes());
    EXPECT_LE(relative_difference(ours, part), tolerance);
  };
  compare(actual.detach(), expected.detach());
  compare(own.grad(), input.grad());
  expect_same(full_gradients(*pair), gradients_of(*plain), tolerance);
}

TEST_P(ParallelLayers, AreTheUnsplitLayers) {
  run([](const GroupPointer& group) {
    for (const bool is_whole : {true, false}) {
      for (const bool bias : {true, false}) {
        SCOPED_TRACE(bias ? "bias" : "no bias");
        expect_pair_as_plain({bias, false, false}, is_whole, group);
        expect_pair_as_plain({bias, false, true}, is_whole, group);
        expect_pair_as_plain({bias, true, false}, is_whole, group);
      }
    }
  });
}

TEST_P(ParallelLayers, BeginAsTheUnsplitLayersOfTheSameSeed) {
  run([](const GroupPointer& group) {
    const auto plain = with_seed(3, [] {
      auto net = std::make_shared<PlainPairImpl>(true);
      return training::state_of(*net);
    });
    const auto pair = with_seed(3, [&] { return Pair(group, PairCase{true, false, false}); });
    expect_same(nn::full_state(pair), plain, 0);
    for (const std::int64_t rows : {12, 13, 4}) {
      const auto table = with_seed(4, [&] { return torch::nn::Embedding(rows, 5)->weight; });
      const auto split = with_seed(4, [&] { return nn::VocabParallelEmbedding(rows, 5, group); });
      EXPECT_TRUE(torch::equal(nn::full_state(split).at("weight"), table));
    }
  });
}

TEST_P(ParallelLayers, CutQueriesKeysAndValuesEachForItself) {
  run([](const GroupPointer& group) {
    const std::int64_t ranks = group->size();
    torch::nn::Linear plain(6, 36);
    fill_model(*plain, true);
    ColumnParallelLinear split(ParallelLinearOptions(6, 36, group).parts(3));
    nn::load_full_state(split, training::state_of(*plain));
    const auto x = whole_numbers({4, 6}, 3);
    const auto full = plain(x).chunk(3, 1);
    const auto own = split(x).chunk(3, 1);
    for (std::size_t part = 0; part < 3; ++part) {
      const auto mine = full[part].chunk(ranks, 1)[static_cast<std::size_t>(group->rank())];
      EXPECT_TRUE(torch::equal(own[part], mine)) << "part " << part;
    }
    expect_same(nn::full_state(split), training::state_of(*plain), 0);
  });
}

void expect_embeddings(std::int64_t rows, bool sequence, const GroupPointer& group) {
  torch::nn::Embedding plain(rows, 4);
  fill_model(*plain, true);
  nn::VocabParallelEmbedding split(
      nn::VocabParallelEmbeddingOptions(rows, 4, group).sequence_parallel(sequence));
  nn::load_full_state(split, training::state_of(*plain));
  const auto tokens = (torch::arange(36, torch::kLong) * 7).remainder(rows).view({12, 3});
  const auto weights = whole_numbers({12, 3, 4}, 2);
  const auto expected = plain(tokens);
  (expected * weights).sum().backward();
  const auto actual = split(tokens);
  EXPECT_TRUE(torch::equal(actual, part_of(expected, sequence, group)));
  (actual * part_of(weights, sequence, group)).sum().backward();
  expect_same(full_gradients(*split), gradients_of(*plain), 0);
  const auto x = whole_numbers({2, 3, 4}, 5);
  const auto logits = split->gather_logits(torch::linear(x, split->weight));
  EXPECT_TRUE(torch::equal(logits, torch::linear(x, plain->weight)));
  EXPECT_FALSE(logits.requires_grad());
}

TEST_P(ParallelLayers, EmbedTokensOfAllRanks) {
  run([](const GroupPointer& group) {
    for (const std::int64_t rows : {24, 25, 23, 4}) {
      for (const bool sequence : {false, true}) expect_embeddings(rows, sequence, group);
    }
    nn::VocabParallelEmbedding split(24, 4, group);
    expect_refusal(
        [&] {
          (void)split(torch::tensor({3, 24}));
        },
        "VocabParallelEmbedding: a token is 24; tokens are from 0 to 23");
    expect_refusal([&] { (void)split(torch::tensor({-1, 2})); }, "a token is -1");
    expect_refusal(
        [&] {
          (void)split->gather_logits(torch::ones({2, 25}));
        },
        "gather_logits expected logits of this rank's ");
    expect_refusal([&] { (void)split(torch::tensor({1.0F})); }, "expected int64 tokens, got Float");
    EXPECT_EQ(split(torch::empty({0}, torch::kLong)).sizes(), at::IntArrayRef({0, 4}));
  });
}

torch::Tensor tanh_of(torch::Tensor x) {
  return x.tanh();
}

/// A stack drawn from a seed, in one of the two forms. Its layers have names "0", "1", ...
struct Stack {
  torch::nn::Sequential split, plain;
  bool is_cut = false;  // the sequence, all the way through
};

Stack draw_stack(std::uint64_t seed, const GroupPointer& group) {
  std::mt19937_64 random(seed);
  const auto draw = [&](std::uint64_t below) {
    return static_cast<std::int64_t>(random() % below);
  };
  Stack stack;
  stack.is_cut = draw(2) == 1;
  std::int64_t width = 12;
  for (std::int64_t i = 0, pairs = 1 + draw(3); i < pairs; ++i) {
    const std::int64_t inside = 12 * (1 + draw(3)), next = 4 * (1 + draw(4));
    const bool bias = draw(2) == 1, is_apart = !stack.is_cut && draw(3) == 0;
    const auto options = [&](std::int64_t in, std::int64_t out) {
      return ParallelLinearOptions(in, out, group).bias(bias).sequence_parallel(stack.is_cut);
    };
    const auto plain = [&](std::int64_t in, std::int64_t out) {
      return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(bias));
    };
    if (draw(2) == 1) {
      const auto norm = torch::nn::LayerNormOptions({width});
      stack.plain->push_back(torch::nn::LayerNorm(norm));
      if (stack.is_cut) {
        stack.split->push_back(nn::SequenceParallelLayerNorm(norm, group));
      } else {
        stack.split->push_back(torch::nn::LayerNorm(norm));
      }
    }
    stack.split->push_back(ColumnParallelLinear(options(width, inside).gather_output(is_apart)));
    stack.plain->push_back(plain(width, inside));
    stack.split->push_back(torch::nn::Functional(tanh_of));
    stack.plain->push_back(torch::nn::Functional(tanh_of));
    stack.split->push_back(RowParallelLinear(options(inside, next).input_is_parallel(!is_apart)));
    stack.plain->push_back(plain(inside, next));
    width = next;
  }
  return stack;
}

TEST_P(ParallelLayers, OfRandomMixturesAreTheUnsplitOnes) {
  run([](const GroupPointer& group) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      SCOPED_TRACE(seed);
      auto stack = draw_stack(seed, group);
      // In double, differences that cancel in layer norms stay small.
      stack.plain->to(torch::kDouble);
      stack.split->to(torch::kDouble);
      fill_model(*stack.plain, false);
      nn::load_full_state(stack.split, training::state_of(*stack.plain));
      const auto make = [] { return fractions({12, 2, 12}, 3); };
      auto input = make().requires_grad_(true);
      const auto expected = stack.plain->forward(input);
      const auto weights = fractions(expected.sizes(), 4);
      (expected * weights).sum().backward();
      auto own = part_of(make(), stack.is_cut, group).clone().requires_grad_(true);
      const auto actual = stack.split->forward(own);
      (actual * part_of(weights, stack.is_cut, group)).sum().backward();
      EXPECT_LE(
          relative_difference(actual.detach(), part_of(expected.detach(), stack.is_cut, group)),
          kDoubleRounding);
      EXPECT_LE(relative_difference(own.grad(), part_of(input.grad(), stack.is_cut, group)),
                kDoubleRounding);
      expect_same(full_gradients(*stack.split), gradients_of(*stack.plain), kDoubleRounding);
    }
  });
}

/// The squares of the gradients of a sum, with respect to the input and to what is cut.
torch::Tensor penalty_of(const torch::Tensor& output, const torch::Tensor& input,
                         const torch::Tensor& up, const torch::Tensor& down) {
  const auto gradients = torch::autograd::grad({output.sum()}, {input, up, down}, {}, std::nullopt,
                                               /*create_graph=*/true);
  torch::Tensor sum = torch::zeros({}, output.options());
  for (const auto& gradient : gradients) sum = sum + gradient.square().sum();
  return sum;
}

TEST_P(ParallelLayers, CanBeDifferentiatedTwice) {
  run([](const GroupPointer& group) {
    for (const bool sequence : {false, true}) {
      SCOPED_TRACE(sequence ? "sequence parallel" : "tensor parallel");
      PlainPair plain(true);
      Pair pair(group, PairCase{true, sequence, false});
      plain->to(torch::kDouble);
      pair->to(torch::kDouble);
      fill_model(*plain, false);
      nn::load_full_state(pair, training::state_of(*plain));
      auto input = fractions({12, 6}, 1).requires_grad_(true);
      penalty_of(plain->forward(input), input, plain->up->weight, plain->down->weight).backward();
      auto own = part_of(fractions({12, 6}, 1), sequence, group).clone().requires_grad_(true);
      auto penalty = penalty_of(pair->forward(own), own, pair->up->weight, pair->down->weight);
      if (!sequence) {
        // All ranks have the whole gradient of the input; what is added has it once.
        const auto whole = torch::autograd::grad({pair->forward(own).sum()}, {own}, {},
                                                 std::nullopt, /*create_graph=*/true)[0];
        const auto once = whole.square().sum();
        penalty = once + lockstep::tensor_parallel::reduce_from(penalty - once, group);
      } else {
        penalty = lockstep::tensor_parallel::reduce_from(penalty, group);
      }
      penalty.backward();
      EXPECT_LE(relative_difference(own.grad(), part_of(input.grad(), sequence, group)),
                kDoubleRounding);
      expect_same(full_gradients(*pair), gradients_of(*plain), kDoubleRounding);
    }
  });
}

TEST_P(ParallelLayers, FollowAutocast) {
  run([](const GroupPointer& group) {
    PlainPair plain(true);
    fill_model(*plain, false);
    Pair pair(group, PairCase{true, false, false});
    nn::load_full_state(pair, training::state_of(*plain));
    const auto x = fractions({12, 6}, 1, torch::kFloat);
    torch::Tensor expected, actual;
    {
      const amp::autocast guard(torch::kCPU, torch::kBFloat16);
      expected = plain->forward(x);
      actual = pair->forward(x);
    }
    EXPECT_EQ(actual.scalar_type(), expected.scalar_type());
    expected.to(torch::kFloat).sum().backward();
    actual.to(torch::kFloat).sum().backward();
    EXPECT_LE(relative_difference(actual.detach(), expected.detach()), 0.05);
    EXPECT_EQ(pair->up->weight.grad().scalar_type(), torch::kFloat);
    expect_same(full_gradients(*pair), gradients_of(*plain), 0.05);
  });
}

TEST_P(ParallelLayers, SumGradientsOfModulesOnPartsOfTheSequence) {
  run([](const GroupPointer& group) {
    const auto full = fractions({12, 6}, 1, torch::kFloat);
    torch::nn::LayerNorm plain(torch::nn::LayerNormOptions({6}));
    const auto weights = fractions({12, 6}, 2, torch::kFloat);
    (plain(full) * weights).sum().backward();
    torch::nn::LayerNorm given(torch::nn::LayerNormOptions({6}));
    EXPECT_EQ(nn::sum_gradients_of_sequence(given, group), 2U);
    EXPECT_EQ(nn::sum_gradients_of_sequence(given, group), 0U) << "they would be summed twice";
    nn::SequenceParallelLayerNorm own(torch::nn::LayerNormOptions({6}), group);
    const auto clone = std::dynamic_pointer_cast<nn::SequenceParallelLayerNormImpl>(own->clone());
    ASSERT_NE(clone, nullptr);
    const auto x = part_of(full, true, group);
    const auto y = part_of(weights, true, group);
    (given(x) * y).sum().backward();
    (own(x) * y).sum().backward();
    (clone->forward(x) * y).sum().backward();
    for (const auto& module :
         std::vector<std::shared_ptr<torch::nn::Module>>{given.ptr(), own.ptr(), clone}) {
      expect_same(gradients_of(*module), gradients_of(*plain), kRounding);
    }
    // Layers that see to their own gradients are left out.
    Pair pair(group, PairCase{true, true, false});
    EXPECT_EQ(nn::sum_gradients_of_sequence(pair, group), 0U);
    torch::nn::Linear frozen(2, 2);
    frozen->weight.requires_grad_(false);
    expect_refusal([&] { (void)nn::sum_gradients_of_sequence(frozen, group); },
                   "weight needs no gradient; freeze parameters afterwards");
    expect_refusal([&] { (void)nn::sum_gradients_of_sequence(plain, nullptr); },
                   "the process group is null");
  });
}

TEST_P(ParallelLayers, SumGradientsOfASequenceBesideOtherHooks) {
  run([](const GroupPointer& group) {
    torch::nn::Linear given(2, 1);
    int calls = 0;
    const auto count = [&](const torch::Tensor& gradient) {
      ++calls;
      return gradient;
    };
    given->weight.register_hook(count);
    EXPECT_EQ(nn::sum_gradients_of_sequence(given, group), 2U);
    given->weight.register_hook(count);
    EXPECT_EQ(nn::sum_gradients_of_sequence(given, group), 0U) << "they would be summed twice";
    given(torch::ones({1, 2})).sum().backward();
    EXPECT_EQ(calls, 2);
    EXPECT_TRUE(
        torch::equal(given->weight.grad(), torch::full({1, 2}, group->size(), torch::kFloat)));
    EXPECT_EQ(given->bias.grad().item<int>(), group->size());
  });
}

/// A program's own module of which the ranks have parts, with others inside.
struct OwnBlockImpl : torch::nn::Module, nn::ShardedModule {
  explicit OwnBlockImpl(GroupPointer its_group) : group(std::move(its_group)) {
    register_parameter("weight", torch::ones({2}));
    register_parameter("shift", torch::ones({2}));
    register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({2})));
  }
  [[nodiscard]] std::vector<nn::ShardedTensor> sharded_tensors() const override {
    return {{"weight", 0, 1}};
  }
  [[nodiscard]] const GroupPointer& tensor_group() const override { return group; }
  GroupPointer group;
};

TEST_P(ParallelLayers, SumGradientsOfWhatAModuleDoesNotCut) {
  run([](const GroupPointer& group) {
    OwnBlockImpl block(group);
    EXPECT_EQ(nn::sum_gradients_of_sequence(block, group), 3U);
    for (const auto& parameter : block.parameters()) parameter.sum().backward();
    const auto gradients = gradients_of(block);
    EXPECT_EQ(gradients.at("weight")[0].item<int>(), 1);
    for (const auto* name : {"shift", "norm.weight", "norm.bias"}) {
      EXPECT_EQ(gradients.at(name)[0].item<int>(), group->size()) << name;
    }
  });
}

TEST_P(ParallelLayers, SayWhatIsWrong) {
  run([](const GroupPointer& group) {
    const auto options = [&] { return ParallelLinearOptions(12, 36, group); };
    expect_refusal([] { ColumnParallelLinear layer(ParallelLinearOptions(2, 2, nullptr)); },
                   "ColumnParallelLinear: the process group is null");
    expect_refusal([&] { RowParallelLinear layer(ParallelLinearOptions(0, 2, group)); },
                   "RowParallelLinear: a layer from 0 to 2 features; both must be positive");
    expect_refusal([&] { RowParallelLinear layer(options().parts(3)); },
                   "only a column-parallel layer has parts");
    expect_refusal([&] { ColumnParallelLinear layer(options().parts(3).gather_output(true)); },
                   "gather_output joins the ranks' columns");
    expect_refusal(
        [&] {
          (void)ColumnParallelLinear(options())(torch::ones({2, 5}));
        },
        "ColumnParallelLinear: expected 12 columns, got [2, 5]");
    expect_refusal([&] { (void)ColumnParallelLinear(options())(torch::tensor(1.0)); },
                   "ColumnParallelLinear: the input has no columns");
    expect_refusal(
        [&] { (void)ColumnParallelLinear(options().sequence_parallel(true))(torch::ones({12})); },
        "with sequence_parallel, the input has a dimension before its columns");
    std::string part = "RowParallelLinear: expected ";
    part += std::to_string(12 / group->size()) + " columns of this rank, got [2, 24]";
    expect_refusal([&] { (void)RowParallelLinear(options())(torch::ones({2, 24})); }, part);
    if (group->size() == 1) return;
    const std::int64_t odd = 24 * group->size() + 1;
    std::string sizes = "out_features is ";
    sizes += std::to_string(odd) + ", which " + std::to_string(group->size());
    sizes += " ranks cannot share equally; it must be a multiple of ";
    expect_refusal([&] { ColumnParallelLinear layer(ParallelLinearOptions(2, odd, group)); },
                   sizes);
    expect_refusal([&] { RowParallelLinear layer(ParallelLinearOptions(odd, 2, group)); },
                   "RowParallelLinear: in_features is ");
    expect_refusal([&] { nn::VocabParallelEmbedding table(group->size() - 1, 2, group); },
                   "; it must be at least 1 for each of the ");
  });
}

}  // namespace
}  // namespace lockstep::testing
