// SPDX-License-Identifier: BSD-3-Clause
// Hooks that cast buckets, alone and around others, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;

class CompressHook : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, CompressHook, ::testing::Values(2, 3));

/// Cast, added in float in rank order, divided, rounded once.
torch::Tensor cast_by_hand(int ranks, at::ScalarType narrow, at::IntArrayRef sizes) {
  torch::Tensor sum = wave(sizes, 0).to(torch::kFloat).to(narrow).to(torch::kFloat);
  for (int rank = 1; rank < ranks; ++rank) {
    sum = sum + wave(sizes, rank).to(torch::kFloat).to(narrow).to(torch::kFloat);
  }
  return (sum * (1.0F / static_cast<float>(ranks))).to(narrow).to(torch::kFloat);
}

TEST_P(CompressHook, IsTheAverageOfTheCastGradientsBitForBit) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto& [hook, narrow] : {std::pair(hooks::fp16_compress(), torch::kHalf),
                                       std::pair(hooks::bf16_compress(), torch::kBFloat16)}) {
      HandMadeBucket bucket(make_parameters({{5, 7}, {9}}), torch::kFloat);
      const auto averages = bucket.reduce(
          *group, hook, {wave({5, 7}, group->rank()).to(torch::kFloat), wave({9}, group->rank())});
      EXPECT_TRUE(torch::equal(averages[0], cast_by_hand(group->size(), narrow, {5, 7})));
      EXPECT_TRUE(torch::equal(averages[1], cast_by_hand(group->size(), narrow, {9})));
      EXPECT_EQ(largest(bucket.gaps()), 0);
      expect_same_bits_on_all_ranks(*group, bucket.buffer);
    }
    group->close();
  });
}

TEST_P(CompressHook, DoesNotOverflowWhereTheAverageDoesNot) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{4}}), torch::kFloat);
    const auto averages =
        bucket.reduce(*group, hooks::fp16_compress(), {torch::full({4}, 60000.0F)});
    EXPECT_EQ(averages[0][3].item<float>(), 60000.0F);
    group->close();
  });
}

TEST_P(CompressHook, TakesDoubleAndLeavesBucketsOfTwoBytesAsTheyAre) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16}) {
      at::ScalarType seen = at::kChar;
      const auto spy = [&](ProcessGroup& ranks, const GradientBucketView& view) {
        seen = view.buffer().scalar_type();
        return hooks::all_reduce()(ranks, view);
      };
      HandMadeBucket bucket(make_parameters({{3, 2}}), dtype);
      const auto values = [](int rank) { return wave({3, 2}, rank); };
      const auto averages =
          bucket.reduce(*group, hooks::compress(torch::kBFloat16, spy), {values(group->rank())});
      EXPECT_EQ(seen, dtype == torch::kHalf ? torch::kHalf : torch::kBFloat16);
      EXPECT_EQ(averages[0].scalar_type(), dtype);
      // Two roundings to eight bits of values up to 2.
      EXPECT_LT(largest_difference(averages[0], mean_over_ranks(group->size(), values)), 0.02);
    }
    group->close();
  });
}

TEST_P(CompressHook, GivesTheInnerHookTheSameBucketInNarrow) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto parameters = make_parameters({{3}, {2, 3, 4, 5}});
    parameters[1] = parameters[1].contiguous(torch::MemoryFormat::ChannelsLast);
    HandMadeBucket bucket(parameters, torch::kFloat);
    const auto own = wave({2, 3, 4, 5}, group->rank()).to(torch::kFloat);
    const auto inner = [&](ProcessGroup&, const GradientBucketView& view) {
      EXPECT_EQ(view.buffer().scalar_type(), torch::kHalf);
      EXPECT_EQ(view.buffer().numel(), bucket.buffer.numel());
      EXPECT_EQ(view.index(), 4U);
      EXPECT_EQ(view.plan(), 9U);
      EXPECT_FALSE(view.is_last());
      EXPECT_TRUE(view.parameters()[1].is_same(parameters[1]));
      EXPECT_TRUE(view.gradients()[1].is_alias_of(view.buffer()));
      EXPECT_EQ(view.gradients()[1].strides(), parameters[1].strides());
      EXPECT_TRUE(torch::equal(view.gradients()[1], own.to(torch::kHalf)));
      view.gradients()[1].mul_(2);
      return make_future(view.buffer());
    };
    bucket.gradients[1].copy_(own);
    const auto result =
        hooks::compress(torch::kHalf, inner)(*group, bucket.view(4, false, 9)).wait();
    EXPECT_TRUE(result.is_same(bucket.buffer));
    EXPECT_TRUE(torch::equal(bucket.gradients[1], (own.to(torch::kHalf) * 2).to(torch::kFloat)));
    group->close();
  });
}

TEST_P(CompressHook, GoesAroundOtherHooks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto values = [](int rank) {
      return torch::outer(wave({12}, 0), wave({10}, 0)) * (rank + 1);
    };
    const auto mean = mean_over_ranks(group->size(), values);
    const auto options = hooks::PowerSgdOptions().start_iteration(0);
    for (const CommunicationHook& inner : {CommunicationHook(hooks::PowerSgd(options)),
                                           CommunicationHook(hooks::BatchedPowerSgd(options)),
                                           CommunicationHook(hooks::Int8ErrorFeedback())}) {
      HandMadeBucket bucket(make_parameters({{12, 10}}), torch::kFloat);
      const auto averages =
          bucket.reduce(*group, hooks::compress(torch::kBFloat16, inner), {values(group->rank())});
      EXPECT_GT(largest_difference(averages[0], torch::zeros({12, 10})), 1);
      expect_same_bits_on_all_ranks(*group, averages[0]);
    }
    HandMadeBucket bucket(make_parameters({{12, 10}}), torch::kFloat);
    const auto averages =
        bucket.reduce(*group, hooks::compress(torch::kBFloat16, hooks::PowerSgd(options)),
                      {values(group->rank())});
    EXPECT_LT(largest_difference(averages[0], mean), 0.05);  // eight bits of values up to 2
    group->close();
  });
}

TEST(CompressHookOptions, AreRefusedByName) {
  const auto text = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const c10::Error& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("no error");
  };
  EXPECT_EQ(text([] { static_cast<void>(hooks::compress(at::kLong)); }),
            "compress: dtype is Long; allowed are Half, BFloat16, Float");
  EXPECT_NE(text([] { static_cast<void>(hooks::compress(at::kHalf, nullptr)); }).find("inner"),
            std::string::npos);
}

TEST_P(CompressHook, RefusesComplexBucketsAndResultsOfTheWrongSize) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket complex(make_parameters({{4}}), torch::kComplexFloat);
    EXPECT_THROW(hooks::fp16_compress()(*group, complex.view()), c10::Error);
    HandMadeBucket bucket(make_parameters({{4}}), torch::kFloat);
    const auto wrong = [](ProcessGroup&, const GradientBucketView&) {
      return make_future(torch::ones({1}));
    };
    EXPECT_THROW(hooks::compress(at::kHalf, wrong)(*group, bucket.view()).wait(), c10::Error);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
