// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/training/metric_set.h>
#include <lockstep/training/metrics.h>
#include <lockstep/training/training_state.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;
using testing::run_ranks;
using testing::run_ranks_or_throw;
using testing::text_of;

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

TEST(Mean, WeighsValues) {
  Mean mean;
  EXPECT_TRUE(std::isnan(mean.compute()));
  mean.update(2.0, 3);
  mean.update(torch::tensor({4.0F, 6.0F}));
  EXPECT_DOUBLE_EQ(mean.compute(), 16.0 / 5);
  EXPECT_EQ(mean.weight(), 5);
  mean.update(torch::tensor({{1.0, 2.0}}), torch::tensor({{1.0, 0.5}}));
  EXPECT_DOUBLE_EQ(mean.compute(), 18.0 / 6.5);
  mean.reset();
  mean.update(torch::tensor({1, 2}), torch::tensor(2.0));  // integers, and one weight for all
  EXPECT_DOUBLE_EQ(mean.compute(), 1.5);
  EXPECT_EQ(mean.weight(), 4);
}

TEST(Mean, LeavesOutWhatWeighsNothingAndKeepsWhatIsNoNumber) {
  Mean mean;
  mean.update(1.0);
  mean.update(kNotANumber, 0);
  mean.update(torch::tensor({kNotANumber, 3.0}), torch::tensor({0.0, 1.0}));
  EXPECT_EQ(mean.compute(), 2);
  mean.update(kNotANumber);
  EXPECT_TRUE(std::isnan(mean.compute()));
}

TEST(Mean, OfSingleNumbersLosesNoCount) {
  // A float cannot count beyond 2^24.
  Mean mean;
  mean.update(1.0, 1 << 24);
  mean.update(torch::ones({3}));
  EXPECT_EQ(mean.weight(), (1 << 24) + 3);
}

TEST(Mean, KeepsNoGraph) {
  Mean mean;
  const auto loss = torch::ones({2}, torch::requires_grad()) * 2;
  mean.update(loss);
  mean.update(loss, torch::ones({2}));
  EXPECT_FALSE(mean.sums().requires_grad());
}

TEST(Mean, RefusesWhatDoesNotFit) {
  Mean mean;
  expect_refusal([&] { mean.update(1.0, -1); }, "the weight is -1");
  expect_refusal([&] { mean.update(1.0, kNotANumber); }, "the weight is nan");
  expect_refusal([&] { mean.update(torch::Tensor()); }, "no tensor of values");
  expect_refusal([&] { mean.update(torch::ones({2}), torch::ones({3})); },
                 "the shapes are [2] and [3]");
  EXPECT_EQ(mean.weight(), 0);
}

/// LibTorch's own choice of the best, where no scores are equal.
double topk_share(const torch::Tensor& scores, const torch::Tensor& classes, std::int64_t k) {
  const auto best = std::get<1>(scores.topk(k, 1));
  return best.eq(classes.unsqueeze(1)).any(1).to(torch::kDouble).mean().item<double>();
}

TEST(Accuracy, IsTheShareAmongTheBest) {
  torch::manual_seed(1);
  const auto scores = torch::randn({200, 7});
  const auto classes = torch::randint(7, {200});
  for (const std::int64_t k : {1, 2, 5, 7}) {
    Accuracy accuracy(k);
    accuracy.update(scores.slice(0, 0, 50), classes.slice(0, 0, 50));
    accuracy.update(scores.slice(0, 50), classes.slice(0, 50).to(torch::kInt));
    EXPECT_EQ(accuracy.compute(), topk_share(scores, classes, k)) << k;
    EXPECT_EQ(accuracy.samples(), 200);
  }
}

TEST(Accuracy, TakesWhatCrossEntropyTakes) {
  torch::manual_seed(2);
  const auto scores = torch::randn({3, 4, 2, 5});
  const auto classes = torch::randint(4, {3, 2, 5});
  Accuracy accuracy;
  accuracy.update(scores, classes);
  EXPECT_EQ(accuracy.samples(), 30);
  EXPECT_EQ(accuracy.compute(),
            scores.argmax(1).eq(classes).to(torch::kDouble).mean().item<double>());
}

TEST(Accuracy, OfEqualScoresIsNoBetterThanChance) {
  Accuracy accuracy(2);
  accuracy.update(torch::zeros({4, 4}), torch::arange(4));
  EXPECT_EQ(accuracy.compute(), 0.5);  // classes 0 and 1
}

TEST(Accuracy, OfScoresThatAreNoNumbersIsWrong) {
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  Accuracy all(3);
  all.update(torch::full({1, 3}, nan), torch::tensor({1}));
  EXPECT_EQ(all.compute(), 0);
  Accuracy first;
  first.update(torch::tensor({{1.0F, nan}}), torch::tensor({0}));
  EXPECT_EQ(first.compute(), 0);
}

TEST(Accuracy, RefusesWhatDoesNotFit) {
  expect_refusal([] { Accuracy(0); }, "k is 0");
  Accuracy accuracy(3);
  EXPECT_TRUE(std::isnan(accuracy.compute()));
  expect_refusal(
      [&] {
        accuracy.update(torch::ones({2, 2}), torch::zeros({2}, torch::kLong));
      },
      "among the best 3, but there are only 2 classes");
  expect_refusal(
      [&] {
        accuracy.update(torch::ones({2, 4}), torch::zeros({3}, torch::kLong));
      },
      "the shapes are [2, 4] and [3]");
  expect_refusal([&] { accuracy.update(torch::ones({4}), torch::zeros({4}, torch::kLong)); },
                 "the shapes are [4] and [4]");
  expect_refusal(
      [&] {
        accuracy.update(torch::ones({2, 4}), torch::zeros({2}));
      },
      "classes are integers, but they are Float");
  expect_refusal(
      [&] {
        accuracy.update(torch::ones({2, 4}, torch::kInt), torch::zeros({2}, torch::kInt));
      },
      "scores are floating-point numbers, but they are Int");
  expect_refusal(
      [&] {
        accuracy.update(torch::ones({3, 4}), torch::tensor({4, 0, -1}));
      },
      "2 classes were not from 0 to 3");
  expect_refusal([&] { accuracy.update(torch::Tensor(), torch::tensor({1})); }, "no tensor");
  EXPECT_EQ(accuracy.samples(), 0);
}

TEST(Metrics, SayLaterWhatADeviceCouldNotSayAtOnce) {
  // As an update on another device leaves the sums.
  Accuracy accuracy;
  accuracy.set_sums(torch::tensor({1.0, 2.0, 1.0}, torch::kDouble));
  expect_refusal([&] { static_cast<void>(accuracy.compute()); }, "1 classes were out of range");
  ConfusionMatrix matrix(2);
  matrix.set_sums(torch::tensor({1.0, 0.0, 0.0, 0.0, 3.0}, torch::kDouble));
  expect_refusal([&] { static_cast<void>(matrix.compute()); }, "3 classes were not from 0 to 1");
  Auroc auroc(2);
  auroc.set_sums(torch::tensor({1.0, 0.0, 0.0, 1.0, 4.0}, torch::kDouble));
  expect_refusal([&] { static_cast<void>(auroc.compute()); },
                 "4 samples had a score out of 0 to 1");
}

TEST(ConfusionMatrix, HasTrueClassesAsRows) {
  ConfusionMatrix matrix(3);
  matrix.update(torch::tensor({0, 2, 2, 1}), torch::tensor({0, 1, 1, 1}));
  // The same by scores.
  matrix.update(torch::tensor({{0.1F, 0.2F, 0.7F}}), torch::tensor({0}));
  const auto counts = matrix.compute();
  EXPECT_TRUE(counts.equal(torch::tensor({{1, 0, 1}, {0, 1, 2}, {0, 0, 0}}))) << counts;
  EXPECT_EQ(counts.scalar_type(), torch::kLong);
  const auto values = matrix.values("test");
  EXPECT_DOUBLE_EQ(values.at("test/accuracy"), 2.0 / 5);
  EXPECT_DOUBLE_EQ(values.at("test/mean_recall"), (1.0 / 2 + 1.0 / 3) / 2);
  EXPECT_TRUE(std::isnan(ConfusionMatrix(2).values("none").at("none/accuracy")));
}

TEST(ConfusionMatrix, RefusesWhatDoesNotFit) {
  expect_refusal([] { ConfusionMatrix(1); }, "1 classes; it takes 2 to");
  expect_refusal([] { ConfusionMatrix(std::int64_t{1} << 40); }, "it takes 2 to 32768");
  ConfusionMatrix matrix(3);
  expect_refusal(
      [&] {
        matrix.update(torch::tensor({0, 3}), torch::tensor({0, 1}));
      },
      "1 classes were not from 0 to 2");
  expect_refusal(
      [&] {
        matrix.update(torch::tensor({0, -1}), torch::tensor({-1, 1}));
      },
      "2 classes were not from 0 to 2");
  expect_refusal(
      [&] {
        matrix.update(torch::tensor({0}), torch::tensor({0, 1}));
      },
      "the shapes are [1] and [2]");
  expect_refusal(
      [&] {
        matrix.update(torch::ones({2, 4}), torch::tensor({0, 1}));
      },
      "scores are of 4 classes, but the matrix is of 3");
  expect_refusal([&] { matrix.update(torch::Tensor(), torch::tensor({0})); }, "no tensor");
  EXPECT_EQ(matrix.compute().sum().item<std::int64_t>(), 0);
}

/// By its definition: all pairs of a positive and a negative sample.
double share_of_pairs(const torch::Tensor& scores, const torch::Tensor& positive) {
  double higher = 0;
  double pairs = 0;
  for (std::int64_t i = 0; i < scores.numel(); ++i) {
    for (std::int64_t j = 0; j < scores.numel(); ++j) {
      if (positive[i].item<int>() == 0 || positive[j].item<int>() == 1) continue;
      const auto a = scores[i].item<double>();
      const auto b = scores[j].item<double>();
      higher += a > b ? 1 : (a == b ? 0.5 : 0);
      ++pairs;
    }
  }
  return higher / pairs;
}

TEST(Auroc, IsTheShareOfPairsInOrder) {
  torch::manual_seed(3);
  const auto positive = torch::randint(2, {120});
  const auto scores = (torch::rand({120}) + positive * 0.3).clamp(0, 1);
  const auto exact = share_of_pairs(scores, positive);
  for (const std::int64_t bins : {7, 4096, 1 << 20}) {
    Auroc auroc(bins);
    auroc.update(scores, positive.to(torch::kBool));
    EXPECT_LE(std::abs(auroc.compute() - exact), auroc.margin() + 1e-12) << bins;
    EXPECT_LT(auroc.margin(), bins == 7 ? 0.1 : 0.01) << bins;
  }
}

TEST(Auroc, OfScoresOnTheBordersOfBinsIsExact) {
  torch::manual_seed(4);
  const auto positive = torch::randint(2, {100});
  const auto scores = torch::randint(0, 9, {100}).to(torch::kDouble) / 8;  // many are equal
  Auroc auroc(1000 * 8);
  auroc.update(scores.slice(0, 0, 30), positive.slice(0, 0, 30));
  auroc.update(scores.slice(0, 30), positive.slice(0, 30));
  EXPECT_DOUBLE_EQ(auroc.compute(), share_of_pairs(scores, positive));
}

TEST(Auroc, OfHandMadeCases) {
  const auto of = [](const std::vector<double>& scores, const std::vector<std::int64_t>& positive) {
    Auroc auroc(10);
    auroc.update(torch::tensor(scores), torch::tensor(positive));
    return auroc.compute();
  };
  EXPECT_EQ(of({0.0, 0.25, 0.75, 1.0}, {0, 0, 1, 1}), 1);
  EXPECT_EQ(of({0.0, 0.25, 0.75, 1.0}, {1, 1, 0, 0}), 0);
  EXPECT_EQ(of({0.5, 0.5}, {1, 0}), 0.5);
  EXPECT_EQ(of({0.15, 0.35, 0.25, 0.85}, {0, 0, 1, 1}), 0.75);
  EXPECT_TRUE(std::isnan(of({0.5, 0.6}, {1, 1})));
}

TEST(Auroc, RefusesWhatDoesNotFit) {
  expect_refusal([] { Auroc(1); }, "1 bins; it takes 2 to");
  Auroc auroc;
  const auto one = torch::tensor({1});
  expect_refusal([&] { auroc.update(torch::tensor({1.5}), one); }, "1 samples have a score");
  expect_refusal([&] { auroc.update(torch::tensor({-0.1}), one); }, "1 samples have a score");
  expect_refusal([&] { auroc.update(torch::tensor({kNotANumber}), one); }, "1 samples have a");
  expect_refusal([&] { auroc.update(torch::tensor({0.5}), one * 2); }, "neither 0 nor 1");
  expect_refusal([&] { auroc.update(torch::ones({2}), one); }, "the shapes are [2] and [1]");
  expect_refusal([&] { auroc.update(one, one); }, "scores are floating-point numbers");
  expect_refusal([&] { auroc.update(torch::ones({1}), torch::ones({1})); }, "are integers");
}

TEST(Metrics, AreCopiedByValue) {
  Accuracy accuracy;
  accuracy.update(torch::tensor({{1.0F, 0.0F}}), torch::tensor({0}));
  Accuracy copy = accuracy;
  copy.update(torch::tensor({{1.0F, 0.0F}}), torch::tensor({1}));
  EXPECT_EQ(accuracy.compute(), 1);
  EXPECT_EQ(copy.compute(), 0.5);
}

TEST(Metrics, AreReadInInferenceModeAndOutsideOfIt) {
  Mean mean;
  {
    const torch::InferenceMode inference;
    mean.update(torch::tensor({1.0}));
  }
  mean.update(torch::tensor({2.0}));
  EXPECT_EQ(mean.compute(), 1.5);
}

TEST(Metrics, ArePartsOfATrainingState) {
  Auroc auroc(16);
  auroc.update(torch::tensor({0.1, 0.9}), torch::tensor({0, 1}));
  TrainingState state;
  state.add_of_rank("auroc", auroc);  // compiles
  Auroc other(16);
  other.load_state(auroc.state());
  EXPECT_EQ(other.compute(), 1);
  expect_refusal([&] { other.load_state({}); }, "this state has no sums");
  expect_refusal([&] { other.load_state(Mean().state()); }, "Auroc of 16 bins has 33 sums");
  expect_refusal([&] { other.set_sums(torch::zeros({33})); }, "which are doubles");
}

class MetricsOfRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, MetricsOfRanks, ::testing::Values(1, 2, 3));

/// Rank r sees 5 + 7 r samples of 4 classes.
std::pair<torch::Tensor, torch::Tensor> samples_of(int rank) {
  const auto generator = torch::make_generator<at::CPUGeneratorImpl>(10 + rank);
  const std::int64_t number = 5 + 7 * rank;
  return {torch::rand({number, 4}, generator), torch::randint(4, {number}, generator)};
}

TEST_P(MetricsOfRanks, AreThoseOfAllSamplesWithTheSameBits) {
  const int world = GetParam();
  std::vector<torch::Tensor> all_scores;
  std::vector<torch::Tensor> all_classes;
  for (int rank = 0; rank < world; ++rank) {
    const auto [scores, classes] = samples_of(rank);
    all_scores.push_back(scores);
    all_classes.push_back(classes);
  }
  const auto scores = torch::cat(all_scores);
  const auto classes = torch::cat(all_classes);
  Accuracy top2(2);
  ConfusionMatrix matrix(4);
  Auroc auroc;
  top2.update(scores, classes);
  matrix.update(scores, classes);
  auroc.update(scores.select(1, 0), classes.eq(0));

  std::vector<double> means(static_cast<std::size_t>(world));
  run_ranks_or_throw(world, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto [own_scores, own_classes] = samples_of(group->rank());
    Mean own_mean;
    Accuracy own_top2(2);
    ConfusionMatrix own_matrix(4);
    Auroc own_auroc;
    own_mean.update(own_scores);
    own_top2.update(own_scores, own_classes);
    own_matrix.update(own_scores, own_classes);
    own_auroc.update(own_scores.select(1, 0), own_classes.eq(0));
    const auto [a, b, c, d] = reduce_metrics(*group, own_mean, own_top2, own_matrix, own_auroc);
    means[static_cast<std::size_t>(group->rank())] = a.compute();
    EXPECT_EQ(a.weight(), scores.numel());
    EXPECT_NEAR(a.compute(), scores.to(torch::kDouble).mean().item<double>(), 1e-12);
    EXPECT_EQ(b.compute(), top2.compute());
    EXPECT_TRUE(c.compute().equal(matrix.compute()));
    EXPECT_EQ(d.compute(), auroc.compute());
    // Those of the rank go on.
    EXPECT_EQ(own_top2.samples(), own_classes.numel());
    group->close();
  });
  for (const double mean : means) EXPECT_EQ(mean, means[0]);
}

TEST_P(MetricsOfRanks, OfWhichSomeHaveSeenNothing) {
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Mean loss;
    Accuracy accuracy;
    MetricSet metrics;
    metrics.add("test/loss", loss).add("test/accuracy", accuracy);
    EXPECT_TRUE(std::isnan(metrics.compute(*group).at("test/loss")));
    if (group->rank() == 0) loss.update(3.0, 2);
    EXPECT_EQ(metrics.compute(*group).at("test/loss"), 3);
    EXPECT_EQ(metrics.compute(*group).size(), 2U);
    EXPECT_EQ(metrics.compute().at("test/loss") == 3, group->rank() == 0);
    metrics.reset();
    EXPECT_TRUE(std::isnan(metrics.compute(*group).at("test/loss")));
    group->close();
  });
}

TEST_P(MetricsOfRanks, GoInOneAllReduce) {
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    // The others make one call; a second one of rank 0 would meet their barrier, which is an error.
    Mean loss;
    ConfusionMatrix matrix(3);
    if (group->size() == 1) {
      static_cast<void>(reduce_metrics(*group, loss, matrix));
    } else if (group->rank() == 0) {
      expect_refusal([&] { static_cast<void>(reduce_metrics(*group, loss, matrix)); },
                     "the ranks reduce different metrics");
    } else {
      group->all_reduce(torch::zeros({2 + 2 + 10}, torch::kDouble), ReduceOp::Sum).wait();
    }
    group->barrier();
    group->close();
  });
}

TEST_P(MetricsOfRanks, OfDifferentKindsAreAnErrorEverywhere) {
  const int world = GetParam();
  const auto errors = run_ranks(world, [&](const std::shared_ptr<ProcessGroup>& group) {
    Accuracy top1;
    Accuracy top5(5);
    Mean mean;
    MetricSet metrics;
    const bool is_last = group->rank() == group->size() - 1;
    metrics.add("accuracy", is_last ? top5 : top1).add("loss", mean);
    static_cast<void>(metrics.compute(*group));
    group->close();
  });
  for (const auto& error : errors) {
    if (world == 1) {
      EXPECT_EQ(text_of(error), "");
    } else {
      testing::expect_error<c10::Error>(error, "the ranks reduce different metrics; rank ");
      testing::expect_error<c10::Error>(error, "accuracy: Accuracy of the best ");
    }
  }
}

TEST(MetricSet, RefusesNamesThatAreNone) {
  Mean loss;
  MetricSet metrics;
  expect_refusal([&] { metrics.add("", loss); }, "without a name");
  metrics.add("loss", loss);
  expect_refusal([&] { metrics.add("loss", loss); }, "a metric 'loss' already");
  const auto group = init_process_group(ProcessGroupOptions().environment(LaunchEnvironment()));
  expect_refusal([&] { reduce_in_place(*group, {nullptr}); }, "is null");
  group->close();
}

}  // namespace
}  // namespace lockstep::training
