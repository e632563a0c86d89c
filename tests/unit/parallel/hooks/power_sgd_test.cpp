// SPDX-License-Identifier: BSD-3-Clause
// Gradients as factors of low rank, matrix by matrix and bucket by bucket, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <limits>

#include "parallel/hooks/low_rank.h"
#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using hooks::BatchedPowerSgd;
using hooks::PowerSgd;
using LowRankOptions = hooks::PowerSgdOptions;

class PowerSgdHook : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, PowerSgdHook, ::testing::Values(2, 3));

/// Options that compress from the first step on, whatever the matrix.
LowRankOptions eager() {
  return LowRankOptions().start_iteration(0).min_compression_rate(1e-3);
}

/// A gradient of rank 1 whose mean over ranks is of rank 1.
torch::Tensor outer(int rank) {
  return torch::outer(wave({12}, 0), wave({10}, 3)) * (rank + 1);
}

/// The nearest matrix of this rank.
torch::Tensor nearest(const torch::Tensor& matrix, std::int64_t rank) {
  const auto [u, s, vh] = torch::linalg_svd(matrix, /*full_matrices=*/false);
  return torch::matmul(u.narrow(1, 0, rank) * s.narrow(0, 0, rank), vh.narrow(0, 0, rank));
}

TEST_P(PowerSgdHook, GivesGradientsOfLowRankExactly) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto mean = mean_over_ranks(group->size(), outer);
    // With more columns than the gradient has, the others depend on the first.
    for (const std::int64_t columns : {1, 2, 5}) {
      const auto options = eager().matrix_approximation_rank(columns);
      for (const CommunicationHook& hook :
           {CommunicationHook(PowerSgd(options)), CommunicationHook(BatchedPowerSgd(options))}) {
        // The whole bucket is one matrix of 12 x 12 for the batched one: rows of 12.
        HandMadeBucket bucket(make_parameters({{12, 12}}), torch::kFloat);
        const auto square = [](int rank) {
          return torch::outer(wave({12}, 0), wave({12}, 3)) * (rank + 1);
        };
        const auto average = bucket.reduce(*group, hook, {square(group->rank())})[0];
        EXPECT_LT(largest_difference(average, mean_over_ranks(group->size(), square)), 5e-6);
        expect_same_bits_on_all_ranks(*group, bucket.buffer);
      }
      HandMadeBucket bucket(make_parameters({{12, 10}, {10}}), torch::kFloat);
      const auto averages = bucket.reduce(*group, PowerSgd(options),
                                          {outer(group->rank()), wave({10}, group->rank())});
      EXPECT_LT(largest_difference(averages[0], mean), 5e-6);
      EXPECT_EQ(largest(bucket.gaps()), 0);
    }
    group->close();
  });
}

TEST_P(PowerSgdHook, GivesEveryGradientExactlyWithAsManyColumnsAsItHas) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto values = [](int rank) { return wave({8, 3, 2}, rank); };
    const auto mean = mean_over_ranks(group->size(), values);
    for (const auto& [dtype, tolerance] :
         {std::pair(torch::kFloat, 1e-5), std::pair(torch::kDouble, 1e-13),
          std::pair(torch::kHalf, 1e-2), std::pair(torch::kBFloat16, 1e-1)}) {
      HandMadeBucket bucket(make_parameters({{8, 3, 2}}), dtype);
      const auto average = bucket.reduce(*group, PowerSgd(eager().matrix_approximation_rank(100)),
                                         {values(group->rank())})[0];
      EXPECT_EQ(average.scalar_type(), dtype);
      EXPECT_LT(largest_difference(average, mean), tolerance) << dtype;
      const auto batched = bucket.reduce(
          *group, BatchedPowerSgd(eager().matrix_approximation_rank(100)), {values(group->rank())});
      EXPECT_LT(largest_difference(batched[0], mean), tolerance) << dtype;
      expect_same_bits_on_all_ranks(*group, bucket.buffer);
    }
    group->close();
  });
}

TEST_P(PowerSgdHook, IsAProjectionThatFindsTheNearestMatrix) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto values = [](int rank) { return wave({14, 9}, rank); };
    const auto mean = mean_over_ranks(group->size(), values);
    HandMadeBucket bucket(make_parameters({{14, 9}}), torch::kDouble);
    const PowerSgd hook(eager().matrix_approximation_rank(3).use_error_feedback(false));
    torch::Tensor average;
    double first = 0;
    for (int step = 0; step < 200; ++step) {
      average = bucket.reduce(*group, hook, {values(group->rank())})[0];
      // What is missing stands at right angles to what was given.
      EXPECT_LT(largest(torch::matmul(average.t(), mean - average)), 1e-12);
      if (step == 0) first = largest_difference(average, nearest(mean, 3));
    }
    EXPECT_GT(first, 1e-2);
    EXPECT_LT(largest_difference(average, nearest(mean, 3)), 1e-4);
    group->close();
  });
}

TEST_P(PowerSgdHook, SendsWholeWhatIsNotWorthCompressing) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // (4 + 4) * 1 * 2 is not less than 16; (20 + 10) * 2 is less than 200.
    HandMadeBucket bucket(make_parameters({{7}, {4, 4}, {20, 10}, {}}), torch::kFloat);
    std::vector<torch::Tensor> own;
    for (const auto& gradient : bucket.gradients) {
      own.push_back(wave(gradient.sizes(), group->rank()).to(torch::kFloat));
    }
    HandMadeBucket plain(bucket.parameters, torch::kFloat);
    const auto expected = plain.reduce(*group, hooks::all_reduce(), own);
    const PowerSgd hook(LowRankOptions().start_iteration(0));
    const auto averages = bucket.reduce(*group, hook, own);
    for (const std::size_t i : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
      EXPECT_TRUE(torch::equal(averages[i], expected[i]));
      EXPECT_FALSE(hook.error_of(bucket.parameters[i]).defined());
    }
    EXPECT_GT(largest_difference(averages[2], expected[2]), 0.01);
    EXPECT_TRUE(hook.error_of(bucket.parameters[2]).defined());
    group->close();
  });
}

TEST_P(PowerSgdHook, SendsEverythingWholeBeforeItStarts) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = LowRankOptions().start_iteration(3).min_compression_rate(1e-3);
    const PowerSgd matrices(options);
    const BatchedPowerSgd batches(options);
    for (const CommunicationHook& hook :
         {CommunicationHook(matrices), CommunicationHook(batches)}) {
      HandMadeBucket bucket(make_parameters({{12, 10}}), torch::kFloat);
      HandMadeBucket plain(bucket.parameters, torch::kFloat);
      for (int step = 0; step < 5; ++step) {
        const auto own = wave({12, 10}, group->rank(), step);
        // The first of two buckets of this step: it does not count.
        hook(*group, HandMadeBucket(make_parameters({{2}}), torch::kFloat).view(0, false)).wait();
        const auto expected = plain.reduce(*group, hooks::all_reduce(), {own})[0];
        EXPECT_EQ(torch::equal(bucket.reduce(*group, hook, {own})[0], expected), step < 3) << step;
      }
    }
    EXPECT_EQ(matrices.steps(), 5U);
    EXPECT_EQ(batches.steps(), 5U);
    group->close();
  });
}

/// What was sent and what is still owed is what was given, while parameters move between buckets.
template <typename Hook>
void check_error_feedback(const Group& group, const Hook& hook, at::ScalarType dtype) {
  const auto parameters = make_parameters({{12, 10}, {5, 4, 3}});
  HandMadeBucket together(parameters, dtype);
  HandMadeBucket first({parameters[0]}, dtype);
  HandMadeBucket second({parameters[1]}, dtype);
  std::vector<torch::Tensor> balance;  // given and not sent, of each parameter
  for (const auto& parameter : parameters) {
    balance.push_back(torch::zeros(parameter.sizes(), torch::kDouble));
  }
  for (int step = 0; step < 9; ++step) {
    std::vector<torch::Tensor> own;
    for (const auto& parameter : parameters) {
      own.push_back(wave(parameter.sizes(), group->rank(), step).to(dtype));
    }
    auto sent =
        step < 4 ? together.reduce(*group, hook, own, 1) : first.reduce(*group, hook, {own[0]}, 2);
    if (step >= 4) sent.push_back(second.reduce(*group, hook, {own[1]}, 2)[0]);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      balance[i] += mean_of(*group, own[i]) - sent[i].to(torch::kDouble);
      const auto error = mean_of(*group, hook.error_of(parameters[i]));
      EXPECT_LT(largest_difference(error, balance[i]), dtype == torch::kDouble ? 1e-12 : 1e-4);
      EXPECT_GT(largest(error), 1e-3);
    }
  }
}

TEST_P(PowerSgdHook, SendsLaterWhatCompressionLeftOut) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16}) {
      check_error_feedback(group, PowerSgd(eager()), dtype);
      check_error_feedback(group, BatchedPowerSgd(eager()), dtype);
      check_error_feedback(group, PowerSgd(eager().warm_start(false)), dtype);
    }
    group->close();
  });
}

TEST_P(PowerSgdHook, WithoutErrorFeedbackKeepsNothing) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{12, 10}}), torch::kFloat);
    const PowerSgd hook(eager().use_error_feedback(false));
    const BatchedPowerSgd batched(eager().use_error_feedback(false));
    bucket.reduce(*group, hook, {wave({12, 10}, group->rank())});
    bucket.reduce(*group, batched, {wave({12, 10}, group->rank())});
    EXPECT_FALSE(hook.error_of(bucket.parameters[0]).defined());
    EXPECT_FALSE(batched.error_of(bucket.parameters[0]).defined());
    group->close();
  });
}

/// Warm starts make the same gradient's approximation better from step to step; a random start for
/// each step does not.
template <typename Hook>
double distance_after(const Group& group, const Hook& hook, int steps, std::uint64_t last_plan,
                      bool ends_with_other_parameters = false) {
  HandMadeBucket bucket(make_parameters({{12, 12}}), torch::kDouble);
  HandMadeBucket other(make_parameters({{12, 12}}), torch::kDouble);
  const auto values = [](int rank) { return wave({12, 12}, rank); };
  const auto mean = mean_over_ranks(group->size(), values);
  torch::Tensor average;
  for (int step = 0; step < steps; ++step) {
    const bool is_last = step + 1 == steps;
    HandMadeBucket& reduced = is_last && ends_with_other_parameters ? other : bucket;
    average = reduced.reduce(*group, hook, {values(group->rank())}, is_last ? last_plan : 1)[0];
  }
  return largest_difference(average, nearest(mean, 2));
}

TEST_P(PowerSgdHook, StartsWarm) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = eager().matrix_approximation_rank(2).use_error_feedback(false);
    const auto cold = LowRankOptions(options).warm_start(false);
    EXPECT_LT(distance_after(group, PowerSgd(options), 150, 1), 1e-3);
    EXPECT_GT(distance_after(group, PowerSgd(cold), 150, 1), 1e-2);
    EXPECT_LT(distance_after(group, BatchedPowerSgd(options), 150, 1), 1e-3);
    // A new bucket assignment takes the factor of a bucket's index, not that of a parameter.
    EXPECT_LT(distance_after(group, PowerSgd(options), 150, 2), 1e-3);
    EXPECT_GT(distance_after(group, BatchedPowerSgd(options), 150, 2), 1e-2);
    // So does a bucket of other parameters: a model that was hooked anew counts its assignments
    // from 1.
    EXPECT_GT(distance_after(group, BatchedPowerSgd(options), 150, 1, true), 1e-2);
    EXPECT_GT(distance_after(group, PowerSgd(options), 150, 1, true), 1e-2);
    group->close();
  });
}

TEST_P(PowerSgdHook, IsTheSameForTheSameSeed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto once = [&](std::uint64_t seed) {
      HandMadeBucket bucket(make_parameters({{12, 10}}), torch::kFloat);
      return bucket.reduce(*group, PowerSgd(eager().random_seed(seed)),
                           {wave({12, 10}, group->rank())})[0];
    };
    EXPECT_TRUE(torch::equal(once(5), once(5)));
    EXPECT_FALSE(torch::equal(once(5), once(6)));
    group->close();
  });
}

template <typename Hook>
void check_zeros(const Group& group, const Hook& hook) {
  HandMadeBucket bucket(make_parameters({{12, 12}}), torch::kDouble);
  const auto parameter = bucket.parameters[0];
  torch::Tensor balance = torch::zeros({12, 12}, torch::kDouble);
  for (int step = 0; step < 7; ++step) {
    // Rank 0 has joined after two steps, the others after four; then all begin anew.
    const bool has_data = step < (group->rank() == 0 ? 2 : 4) || step >= 5;
    const auto own = wave({12, 12}, group->rank(), step) * (has_data ? 1 : 0);
    const auto before = step > 0 ? hook.error_of(parameter) : torch::Tensor();
    const auto average = bucket.reduce(*group, hook, {own})[0];
    balance += mean_of(*group, own) - average;
    EXPECT_LT(largest_difference(mean_of(*group, hook.error_of(parameter)), balance), 1e-12);
    if (step == 4) {
      EXPECT_EQ(largest(average), 0);
      EXPECT_TRUE(torch::equal(hook.error_of(parameter), before));
    } else {
      EXPECT_GT(largest(average), 0.1) << step;
    }
  }
}

TEST_P(PowerSgdHook, GoesOnAfterRoundsOfZeros) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    check_zeros(group, PowerSgd(eager().matrix_approximation_rank(2)));
    check_zeros(group, BatchedPowerSgd(eager().matrix_approximation_rank(2)));
    check_zeros(group, PowerSgd(eager().orthogonalization_epsilon(1e-8)));
    group->close();
  });
}

TEST_P(PowerSgdHook, ShowsWhatIsNotFiniteAndForgetsIt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto mean = mean_over_ranks(group->size(), [](int rank) { return wave({6, 6}, rank); });
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      const auto options = eager().matrix_approximation_rank(6);
      for (const CommunicationHook& hook :
           {CommunicationHook(PowerSgd(options)), CommunicationHook(BatchedPowerSgd(options))}) {
        HandMadeBucket bucket(make_parameters({{6, 6}}), torch::kFloat);
        auto own = wave({6, 6}, group->rank());
        bucket.reduce(*group, hook, {own});
        auto broken = own.clone();
        if (group->rank() == 1) broken[3][2] = bad;
        const auto average = bucket.reduce(*group, hook, {broken})[0];
        EXPECT_FALSE(torch::isfinite(average).all().item<bool>());
        EXPECT_LT(largest_difference(bucket.reduce(*group, hook, {own})[0], mean), 1e-4);
      }
    }
    group->close();
  });
}

TEST_P(PowerSgdHook, RefusesComplexBuckets) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    HandMadeBucket bucket(make_parameters({{12, 12}}), torch::kComplexFloat);
    for (const CommunicationHook& hook :
         {CommunicationHook(PowerSgd()), CommunicationHook(BatchedPowerSgd())}) {
      try {
        hook(*group, bucket.view());
        ADD_FAILURE();
      } catch (const c10::Error& error) {
        EXPECT_NE(std::string(error.what()).find("bucket 1 is of ComplexFloat"), std::string::npos);
      }
    }
    group->close();
  });
}

TEST(PowerSgdHookOptions, AreRefusedByName) {
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<LowRankOptions, std::string>> wrong{
      {LowRankOptions().matrix_approximation_rank(0),
       "matrix_approximation_rank is 0; allowed are 1"},
      {LowRankOptions().matrix_approximation_rank(-2), "matrix_approximation_rank is -2"},
      {LowRankOptions().min_compression_rate(0), "min_compression_rate is 0; it must be positive"},
      {LowRankOptions().min_compression_rate(nan), "min_compression_rate is nan"},
      {LowRankOptions().orthogonalization_epsilon(-1),
       "orthogonalization_epsilon is -1; allowed are 0"},
      {LowRankOptions().orthogonalization_epsilon(nan), "orthogonalization_epsilon is nan"}};
  for (const auto& [options, text] : wrong) {
    for (const bool is_batched : {false, true}) {
      try {
        if (is_batched) BatchedPowerSgd{options};
        if (!is_batched) PowerSgd{options};
        ADD_FAILURE() << text;
      } catch (const c10::Error& error) {
        const std::string message = error.what_without_backtrace();
        EXPECT_EQ(message.find(is_batched ? "BatchedPowerSgd: " : "PowerSgd: "), 0U) << message;
        EXPECT_NE(message.find(text), std::string::npos) << message;
      }
    }
  }
}

TEST(Orthogonalized, GivesColumnsAtRightAnglesAndZerosForDependentOnes) {
  const auto own = wave({9, 3}, 0);
  const auto result = hooks::orthogonalized(own, 0);
  EXPECT_LT(largest_difference(torch::matmul(result.t(), result), torch::eye(3)), 1e-14);
  // The first column stays what it was, but for its length.
  EXPECT_LT(largest_difference(result.select(1, 0) * own.select(1, 0).norm(), own.select(1, 0)),
            1e-14);
  auto dependent = own.clone();
  dependent.select(1, 1).zero_();
  const auto zeros = hooks::orthogonalized(dependent, 0);
  EXPECT_EQ(largest(zeros.select(1, 1)), 0);
  EXPECT_LT(
      largest_difference(torch::matmul(zeros.t(), zeros), torch::diag(torch::tensor({1., 0., 1.}))),
      1e-14);
  // Columns that differ by rounding only, in float: at right angles all the same.
  const auto nearly = (wave({9, 1}, 0) * torch::ones({1, 3}) + 1e-7 * own).to(torch::kFloat);
  const auto clean = hooks::orthogonalized(nearly, 0);
  EXPECT_LT(largest_difference(torch::matmul(clean.t(), clean), torch::eye(3)), 1e-5);
}

TEST(Orthogonalized, TakesUselessColumnsFromTheSpare) {
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {0.0, nan}) {
    auto own = wave({9, 3}, 0);
    own.select(1, 1).fill_(bad);
    const auto result = hooks::orthogonalized(own, 0, wave({9, 3}, 1));
    EXPECT_LT(largest_difference(torch::matmul(result.t(), result), torch::eye(3)), 1e-14);
  }
}

}  // namespace
}  // namespace lockstep::testing
