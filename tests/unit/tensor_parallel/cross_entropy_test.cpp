// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/amp/autocast.h>

#include <limits>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

namespace functional = torch::nn::functional;
using nn::VocabParallelCrossEntropy;
using nn::VocabParallelCrossEntropyOptions;
using Reduction = VocabParallelCrossEntropyOptions::Reduction;

constexpr std::int64_t kClasses = 24;

class VocabCrossEntropy : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, VocabCrossEntropy, ::testing::Values(1, 2, 3, 4));

torch::Tensor own_classes(const torch::Tensor& full, const GroupPointer& group) {
  return full.tensor_split(group->size(), -1)[static_cast<std::size_t>(group->rank())];
}

torch::Tensor some_targets(std::int64_t tokens) {
  return (torch::arange(tokens, torch::kLong) * 7 + 2).remainder(kClasses);
}

/// LibTorch's, of the full logits.
torch::Tensor plain_loss(const torch::Tensor& logits, const torch::Tensor& targets,
                         Reduction reduction, double smoothing) {
  auto options = functional::CrossEntropyFuncOptions().ignore_index(5).label_smoothing(smoothing);
  if (reduction == Reduction::None) options.reduction(torch::kNone);
  if (reduction == Reduction::Sum) options.reduction(torch::kSum);
  return functional::cross_entropy(logits, targets, options);
}

void expect_as_plain(const torch::Tensor& values, const torch::Tensor& targets,
                     const VocabParallelCrossEntropyOptions& options, double tolerance) {
  const auto& group = options.group();
  auto full = values.clone().requires_grad_(true);
  const auto expected = plain_loss(full, targets, options.reduction(), options.label_smoothing());
  auto own = own_classes(values, group).clone().requires_grad_(true);
  VocabParallelCrossEntropy loss(options);
  const auto actual = loss(own, targets);
  ASSERT_EQ(actual.sizes(), expected.sizes());
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type());
  EXPECT_TRUE(torch::allclose(actual.to(torch::kDouble), expected.to(torch::kDouble), tolerance,
                              tolerance, /*equal_nan=*/true))
      << actual << " instead of " << expected;
  const auto weights = fractions(expected.sizes(), 6, expected.scalar_type()) + 2;
  (expected * weights).sum().backward();
  // Twice: the graph is kept, and then it is not.
  const auto weighted = (actual * weights).sum();
  weighted.backward({}, /*retain_graph=*/true);
  const auto first = own.grad().clone();
  own.mutable_grad().reset();
  weighted.backward();
  EXPECT_TRUE(torch::equal(own.grad(), first));
  EXPECT_TRUE(torch::allclose(first.to(torch::kDouble),
                              own_classes(full.grad(), group).to(torch::kDouble), tolerance,
                              tolerance));
}

TEST_P(VocabCrossEntropy, IsThatOfTheFullLogits) {
  run([](const GroupPointer& group) {
    auto targets = some_targets(10);
    targets[3] = 5;  // does not count
    for (const double smoothing : {0.0, 0.1, 1.0}) {
      for (const auto reduction : {Reduction::None, Reduction::Mean, Reduction::Sum}) {
        SCOPED_TRACE(smoothing);
        const auto options = VocabParallelCrossEntropyOptions(group)
                                 .ignore_index(5)
                                 .label_smoothing(smoothing)
                                 .reduction(reduction);
        const auto values = 8 * fractions({10, kClasses}, 1);
        expect_as_plain(values, targets, options, 1e-12);
        expect_as_plain(values.to(torch::kFloat), targets, options, 3e-6);
        expect_as_plain(values.to(torch::kBFloat16), targets, options, 0.03);
        // Large logits, of which exp is infinite.
        expect_as_plain(100 * values, targets, options, 1e-12);
      }
    }
  });
}

// What `torch.tensor_split` makes of them: the first ranks have one more.
TEST_P(VocabCrossEntropy, TakesClassesThatTheRanksDoNotDivide) {
  run([](const GroupPointer& group) {
    auto targets = some_targets(10);
    targets[3] = 5;             // does not count
    targets[7] = kClasses + 1;  // the last one
    for (const double smoothing : {0.0, 0.1}) {
      SCOPED_TRACE(smoothing);
      const auto options = VocabParallelCrossEntropyOptions(group)
                               .classes(kClasses + 2)
                               .ignore_index(5)
                               .label_smoothing(smoothing);
      expect_as_plain(8 * fractions({10, kClasses + 2}, 1), targets, options, 1e-12);
    }
    VocabParallelCrossEntropy loss(VocabParallelCrossEntropyOptions(group).classes(4));
    // One rank has others, and all of them say so.
    const bool is_last = group->rank() == group->size() - 1;
    const auto logits = own_classes(torch::ones({1, 4}), group);
    const auto target = torch::zeros({1}, torch::kLong);
    expect_refusal(
        [&] {
          (void)loss(is_last ? torch::ones({1, 9}) : logits, target);
        },
        "9 logits a token, and should have ");
    expect_refusal(
        [&] {
          (void)loss(own_classes(torch::ones({1, 4}), group), torch::full({1}, 4L));
        },
        "a target is 4; classes are from 0 to 3");
    expect_refusal(
        [&] {
          VocabParallelCrossEntropy wrong(VocabParallelCrossEntropyOptions(group).classes(-1));
        },
        "VocabParallelCrossEntropy: classes is -1; it must be 0, or at least 1 for each of the ");
  });
}

// Where a part does not fit into the cache, it is computed in several pieces.
TEST_P(VocabCrossEntropy, OfManyTokensIsThatOfTheFullLogits) {
  run([](const GroupPointer& group) {
    const auto values = fractions({20000, kClasses}, 1, torch::kFloat) * 4;
    const auto options =
        VocabParallelCrossEntropyOptions(group).ignore_index(5).label_smoothing(0.1);
    expect_as_plain(values, some_targets(20000), options, 1e-5);
  });
}

TEST_P(VocabCrossEntropy, TakesInfinitiesAndMoreDimensions) {
  run([](const GroupPointer& group) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    auto values = fractions({4, kClasses}, 2) * 3;
    // A whole rank's classes are impossible, then all but one.
    values[0].narrow(0, 0, kClasses / group->size()).fill_(-kInfinity);
    values[0][kClasses - 1] = 1000;
    values[1].fill_(-kInfinity);
    values[1][9] = -1000;
    const auto targets =
        torch::tensor({kClasses - 1, std::int64_t{9}, std::int64_t{3}, std::int64_t{20}});
    const auto options = VocabParallelCrossEntropyOptions(group).ignore_index(5);
    expect_as_plain(values, targets, options, 1e-12);
    // All tokens ignored: 0 / 0, as LibTorch says.
    VocabParallelCrossEntropy loss(options);
    const auto none = loss(own_classes(values, group), torch::full({4}, 5, torch::kLong));
    EXPECT_TRUE(none.isnan().item<bool>());
    const auto cube = fractions({2, 3, kClasses}, 7);
    const auto cube_targets = some_targets(6).view({2, 3});
    const auto each = VocabParallelCrossEntropy(VocabParallelCrossEntropyOptions(group).reduction(
        Reduction::None))(own_classes(cube, group), cube_targets);
    const auto expected =
        functional::cross_entropy(cube.flatten(0, 1), cube_targets.flatten(),
                                  functional::CrossEntropyFuncOptions().reduction(torch::kNone));
    EXPECT_TRUE(torch::allclose(each, expected.view({2, 3})));
  });
}

TEST_P(VocabCrossEntropy, IsInFloatUnderAutocast) {
  run([](const GroupPointer& group) {
    const auto values = (fractions({10, kClasses}, 1) * 4).to(torch::kBFloat16);
    const amp::autocast guard(torch::kCPU, torch::kBFloat16);
    VocabParallelCrossEntropy loss(group);
    const auto expected = functional::cross_entropy(values, some_targets(10));
    const auto actual = loss(own_classes(values, group), some_targets(10));
    EXPECT_EQ(actual.scalar_type(), expected.scalar_type());
    EXPECT_NEAR(actual.item<double>(), expected.item<double>(), 1e-5);
  });
}

TEST_P(VocabCrossEntropy, GivesAllRanksTheSameBits) {
  run([](const GroupPointer& group) {
    VocabParallelCrossEntropy loss(group);
    const auto values = fractions({10, kClasses}, 1, torch::kFloat);
    const auto own = loss(own_classes(values, group), some_targets(10));
    const auto all = torch::empty({group->size()});
    group->all_gather(all, own).wait();
    EXPECT_TRUE(torch::equal(all, all[0].expand({group->size()}))) << all;
  });
}

TEST_P(VocabCrossEntropy, SaysWhatIsWrong) {
  run([](const GroupPointer& group) {
    VocabParallelCrossEntropy loss(group);
    const auto logits = torch::ones({2, 4});
    const auto targets = torch::zeros({2}, torch::kLong);
    expect_refusal([&] { (void)loss(logits, torch::zeros({3}, torch::kLong)); },
                   "expected logits {*, classes / ranks} and targets {*}, got [2, 4] and [3]");
    expect_refusal([&] { (void)loss(logits, torch::zeros({2})); },
                   "expected int64 targets, got Float");
    expect_refusal([&] { (void)loss(logits.to(torch::kLong), targets); },
                   "expected logits of a floating-point dtype, got Long");
    expect_refusal([&] { (void)loss(torch::Tensor(), targets); },
                   "logits or targets are undefined");
    std::string part = "a target is ";
    part += std::to_string(4 * group->size()) + "; classes are from 0 to ";
    expect_refusal([&] { (void)loss(logits, targets + 4 * group->size()); }, part);
    expect_refusal([&] { (void)loss(logits, targets - 1); }, "a target is -1");
    expect_refusal(
        [&] {
          VocabParallelCrossEntropy wrong(
              VocabParallelCrossEntropyOptions(group).label_smoothing(1.5));
        },
        "label_smoothing is 1.5; it must be from 0 to 1");
    expect_refusal([] { VocabParallelCrossEntropy wrong(GroupPointer{}); },
                   "VocabParallelCrossEntropy: the process group is null");
    auto leaf = logits.clone().requires_grad_(true);
    const auto gradient =
        torch::autograd::grad({loss(leaf, targets)}, {leaf}, {}, std::nullopt, true)[0];
    expect_refusal([&] { gradient.square().sum().backward(); }, "cannot be differentiated twice");
  });
}

// Also where the target is a class of one of them only.
TEST(VocabCrossEntropyOfUnequalRanks, IsAMismatch) {
  const auto errors = run_ranks(2, [](const GroupPointer& group) {
    VocabParallelCrossEntropy loss(group);
    (void)loss(torch::ones({3, 4 + group->rank()}), torch::full({3}, 9L));
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "cross entropy of");
}

}  // namespace
}  // namespace lockstep::testing
