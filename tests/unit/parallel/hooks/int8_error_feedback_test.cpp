// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>

#include <limits>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using hooks::Int8ErrorFeedback;
using Int8Options = hooks::Int8ErrorFeedbackOptions;

class Int8Hook : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, Int8Hook, ::testing::Values(2, 3));

TEST_P(Int8Hook, RoundsTwiceByAtMostHalfAScale) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{50, 70}, {5}, {}}), torch::kFloat);
    const auto values = [](int rank) { return wave({50, 70}, rank); };
    const auto mean = mean_over_ranks(group->size(), values);
    const auto averages =
        bucket.reduce(*group, Int8ErrorFeedback(),
                      {values(group->rank()), wave({5}, group->rank()) * 0.1, wave({}, 1) * 0.1});
    const double first = mean_over_ranks(group->size(), [&](int rank) {
                           return values(rank).abs().max() / 127;
                         }).item<double>();
    const double second = (largest(mean) + first) / 127;
    const double difference = largest_difference(averages[0], mean);
    EXPECT_LE(difference, (first + second) / 2 * (1 + 1e-5));
    EXPECT_GT(difference, 0);
    EXPECT_EQ(largest(bucket.gaps()), 0);
    expect_same_bits_on_all_ranks(*group, bucket.buffer);
    group->close();
  });
}

TEST_P(Int8Hook, IsExactForWholeNumbersUpTo127) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kHalf, torch::kBFloat16}) {
      // One chunk a rank; each holds a 127, so that the scale is 1.
      HandMadeBucket bucket(make_parameters({{768}}), dtype);
      const auto values = (torch::arange(768, torch::kDouble) * 7).remainder(255) - 127;
      const Int8ErrorFeedback hook;
      const auto averages = bucket.reduce(*group, hook, {values});
      EXPECT_EQ(averages[0].scalar_type(), dtype);
      EXPECT_TRUE(torch::equal(averages[0].to(torch::kDouble), values)) << dtype;
      EXPECT_EQ(largest(hook.error_of(bucket.parameters[0])), 0);
    }
    group->close();
  });
}

TEST_P(Int8Hook, KeepsQuietChunksBesideLoudOnes) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{6, 64}}), torch::kFloat);
    const auto values = [](int rank) {
      const auto loud = torch::tensor({1e6, 1.0, 1e-6, 1e6, 1.0, 1e-6}, torch::kDouble);
      return wave({6, 64}, rank) * loud.unsqueeze(1);
    };
    const auto averages = bucket.reduce(*group, Int8ErrorFeedback(Int8Options().chunk_elements(64)),
                                        {values(group->rank())});
    const auto mean = mean_over_ranks(group->size(), values);
    for (int row = 0; row < 6; ++row) {
      EXPECT_LT(largest_difference(averages[0][row], mean[row]), largest(mean[row]) * 0.03) << row;
    }
    group->close();
  });
}

TEST_P(Int8Hook, SendsLaterWhatRoundingLeftOut) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto dtype : {torch::kDouble, torch::kHalf}) {
      const auto parameters = make_parameters({{20, 30}, {7}});
      HandMadeBucket together(parameters, dtype);
      HandMadeBucket first({parameters[0]}, dtype);
      const Int8ErrorFeedback hook;
      torch::Tensor given = torch::zeros({20, 30}, torch::kDouble);
      torch::Tensor sent = torch::zeros({20, 30}, torch::kDouble);
      for (int step = 0; step < 8; ++step) {
        const auto own = wave({20, 30}, group->rank(), step).to(dtype);
        given += mean_of(*group, own);
        // The parameter moves to another bucket.
        sent += step < 4 ? together.reduce(*group, hook, {own, wave({7}, 0)}, 1)[0]
                         : first.reduce(*group, hook, {own}, 2)[0];
        const auto error = mean_of(*group, hook.error_of(parameters[0]));
        // Errors of Half are kept in float.
        EXPECT_LT(largest_difference(sent + error, given), dtype == torch::kHalf ? 1e-5 : 1e-12);
        EXPECT_GT(largest(error), 1e-4);
        EXPECT_LT(largest(error), 0.05);  // it does not add up
      }
    }
    group->close();
  });
}

TEST_P(Int8Hook, WithoutErrorFeedbackKeepsNothing) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{30}}), torch::kFloat);
    const Int8ErrorFeedback hook(Int8Options().use_error_feedback(false));
    const auto one = bucket.reduce(*group, hook, {wave({30}, group->rank())});
    const auto two = bucket.reduce(*group, hook, {wave({30}, group->rank())});
    EXPECT_TRUE(torch::equal(one[0], two[0]));
    EXPECT_FALSE(hook.error_of(bucket.parameters[0]).defined());
    group->close();
  });
}

TEST_P(Int8Hook, ErrorsWaitWhileThereAreOnlyZeros) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{30}}), torch::kDouble);
    const Int8ErrorFeedback hook;
    const auto parameter = bucket.parameters[0];
    torch::Tensor given = torch::zeros({30}, torch::kDouble);
    torch::Tensor sent = torch::zeros({30}, torch::kDouble);
    for (int step = 0; step < 5; ++step) {
      // Rank 0 has joined after two steps, the others after four.
      const bool has_data = step < (group->rank() == 0 ? 2 : 4);
      const auto own = wave({30}, group->rank(), step) * (has_data ? 1 : 0);
      const auto before = step > 0 ? hook.error_of(parameter) : torch::Tensor();
      given += mean_of(*group, own);
      const auto average = bucket.reduce(*group, hook, {own})[0];
      sent += average;
      EXPECT_LT(largest_difference(sent + mean_of(*group, hook.error_of(parameter)), given), 1e-12);
      if (step < 4) continue;
      EXPECT_EQ(largest(average), 0);
      EXPECT_TRUE(torch::equal(hook.error_of(parameter), before));
    }
    group->close();
  });
}

TEST_P(Int8Hook, ShowsWhatIsNotFiniteAndForgetsIt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      HandMadeBucket bucket(make_parameters({{30}}), torch::kFloat);
      const Int8ErrorFeedback hook;
      auto own = wave({30}, group->rank());
      if (group->rank() == 1) own[29] = bad;  // in one chunk with the zeros behind it
      EXPECT_FALSE(torch::isfinite(bucket.reduce(*group, hook, {own})[0][29]).item<bool>());
      EXPECT_EQ(largest(bucket.gaps()), 0);
      const auto after = bucket.reduce(*group, hook, {wave({30}, group->rank())})[0];
      const auto mean = mean_over_ranks(group->size(), [](int rank) { return wave({30}, rank); });
      EXPECT_LT(largest_difference(after, mean), 0.1);
    }
    group->close();
  });
}

TEST(Int8HookOptions, AreRefusedByName) {
  for (const std::int64_t elements : {0, -4, 6, (1 << 20) + 4}) {
    try {
      const Int8ErrorFeedback hook(Int8Options().chunk_elements(elements));
      ADD_FAILURE() << elements;
    } catch (const c10::Error& error) {
      EXPECT_EQ(std::string(error.what_without_backtrace()),
                "Int8ErrorFeedback: chunk_elements is " + std::to_string(elements) +
                    "; allowed are multiples of 4 from 4 to 1048576");
    }
  }
}

TEST_P(Int8Hook, RefusesComplexBuckets) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{4}}), torch::kComplexFloat);
    EXPECT_THROW(Int8ErrorFeedback()(*group, bucket.view()), c10::Error);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
