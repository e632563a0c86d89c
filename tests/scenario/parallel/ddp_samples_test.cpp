// SPDX-License-Identifier: BSD-3-Clause
// Which samples count in averages by samples, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <cmath>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;

struct HiddenOutput {
  torch::Tensor loss;
};

/// Its gradient is the mean of the batch's rows.
struct RowMeanImpl : torch::nn::Module {
  RowMeanImpl() { weight = register_parameter("weight", torch::zeros({1})); }
  torch::Tensor forward(const torch::Tensor& x, bool throws = false) {
    auto loss = (x * weight).sum() / std::max<std::int64_t>(1, x.size(0));
    if (throws) throw std::runtime_error("no forward today");
    return loss;
  }
  HiddenOutput forward(const torch::Tensor& x, const std::string&) { return {forward(x)}; }
  torch::Tensor forward(const std::vector<torch::Tensor>& rows) {
    return forward(torch::stack(rows));
  }
  torch::Tensor weight;
};
TORCH_MODULE(RowMean);

torch::Tensor constant_rows(std::int64_t count, float value) {
  return torch::full({count, 1}, value);
}

class DdpSamples : public ::testing::TestWithParam<int> {
 protected:
  using Model = DistributedDataParallel<RowMean>;
  struct Rank {
    Group group;
    Model& model;
    [[nodiscard]] int number() const { return group->rank(); }
    [[nodiscard]] float value() const { return static_cast<float>(group->rank() + 1); }
  };

  static Model wrap(const Group& group) {
    return {RowMean(), group,
            DistributedDataParallelOptions().averaging(GradientAveraging::Samples)};
  }
  static float gradient(const Model& model) { return model->module()->weight.grad().item<float>(); }
  /// `step` does one backward of samples as often as rank and step say, with values rank + 1.
  /// Twice, since the first step also learns what is usual.
  static void expect_average(const std::function<void(const Rank&, int step)>& step,
                             const std::function<int(int rank, int step)>& samples) {
    run_ranks_or_throw(GetParam(), [&](const Group& group) {
      auto model = wrap(group);
      for (int number = 0; number < 3; ++number) {
        model->zero_grad();
        step({group, model}, number);
        float sum = 0;
        float total = 0;
        for (int rank = 0; rank < group->size(); ++rank) {
          const auto count = static_cast<float>(samples(rank, number));
          sum += count * static_cast<float>(rank + 1);
          total += count;
        }
        EXPECT_FLOAT_EQ(gradient(model), total == 0 ? 0 : sum / total) << "step " << number;
      }
      group->close();
    });
  }
};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpSamples, ::testing::Values(2, 3));

int one_sample_each(int, int) {
  return 1;
}

TEST_P(DdpSamples, OfAForwardWithoutBackwardDoNotCount) {
  expect_average(
      [](const Rank& rank, int step) {
        const auto before = rank.model->forward(constant_rows(rank.number() == 0 ? 5 : 1, 9));
        if (step == 1) static_cast<void>(rank.model->forward(constant_rows(7, 9)));  // gone at once
        const auto loss = rank.model->forward(constant_rows(1, rank.value()));
        const auto after = rank.model->forward(constant_rows(rank.number() + 3, 9));
        loss.backward();
      },
      one_sample_each);
}

TEST_P(DdpSamples, OfAForwardThatThrewDoNotCount) {
  expect_average(
      [](const Rank& rank, int) {
        if (rank.number() == 0) {
          EXPECT_THROW(static_cast<void>(rank.model->forward(constant_rows(5, 9), true)),
                       std::runtime_error);
        }
        const auto loss = rank.model->forward(constant_rows(1, rank.value()));
        if (rank.number() == 1) {
          EXPECT_THROW(static_cast<void>(rank.model->forward(constant_rows(5, 9), true)),
                       std::runtime_error);
          const torch::NoGradGuard no_grad;
          static_cast<void>(rank.model->forward(constant_rows(4, 9)));
        }
        loss.backward();
      },
      one_sample_each);
}

TEST_P(DdpSamples, OfAnEmptyBatchAreNone) {
  for (const int first : {0, 1}) {
    // Rank 0 has rows in every second step; in the first one too, or not.
    const auto samples = [=](int rank, int step) { return rank == 0 && step % 2 == first ? 0 : 4; };
    expect_average(
        [=](const Rank& rank, int step) {
          rank.model->forward(constant_rows(samples(rank.number(), step), rank.value())).backward();
        },
        samples);
  }
}

TEST_P(DdpSamples, OfAnEmptyBatchCountNothingThoughTheirMeanIsNoNumber) {
  expect_average(
      [](const Rank& rank, int) {
        const auto x = rank.number() == 0 ? constant_rows(0, 1) : constant_rows(2, rank.value());
        const auto loss = rank.model->forward(x);
        (rank.number() == 0 ? loss * std::nanf("") : loss).backward();
      },
      [](int rank, int) { return rank == 0 ? 0 : 2; });
}

TEST_P(DdpSamples, ThatAreSaidToBeNoneCountNothingThoughTheirGradientIsNoNumber) {
  expect_average(
      [](const Rank& rank, int) {
        const auto loss = rank.model->forward(constant_rows(2, rank.value()));
        if (rank.number() == 0) rank.model->set_samples(0);
        (rank.number() == 0 ? loss * std::nanf("") : loss).backward();
      },
      [](int rank, int) { return rank == 0 ? 0 : 2; });
}

TEST_P(DdpSamples, OfNobodyLeaveGradientsAsTheyAre) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto model = wrap(group);
    model->forward(constant_rows(2, static_cast<float>(group->rank()))).backward();
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    EXPECT_FLOAT_EQ(gradient(model), mean_rank);
    model->forward(constant_rows(0, 5)).backward();  // on all ranks
    EXPECT_FLOAT_EQ(gradient(model), mean_rank);
    model->zero_grad();
    model->forward(constant_rows(0, 5)).backward();
    EXPECT_EQ(gradient(model), 0);
    model->zero_grad();
    model->forward(constant_rows(2, static_cast<float>(group->rank()))).backward();
    EXPECT_FLOAT_EQ(gradient(model), mean_rank);
    group->close();
  });
}

TEST_P(DdpSamples, OfSeveralForwardsAddUp) {
  expect_average(
      [](const Rank& rank, int step) {
        const auto own = [&](int count) {
          return rank.model->forward(constant_rows(count, rank.value()));
        };
        const auto wasted = own(6);
        const auto guard_of = [&] { return rank.model->no_sync(); };
        if (step == 0) {
          ((own(1) + own(rank.number() + 1)) / 2).backward();
        } else {
          {
            const auto guard = guard_of();
            static_cast<void>(own(2));
            (own(1) / 2).backward();
          }
          (own(rank.number() + 1) / 2).backward();
        }
      },
      [](int rank, int) { return rank + 2; });
}

TEST_P(DdpSamples, CountAgainInAnotherBackwardOfTheSameOutputs) {
  expect_average(
      [](const Rank& rank, int) {
        const auto loss = rank.model->forward(constant_rows(rank.number() + 1, rank.value()));
        loss.backward({}, /*retain_graph=*/true);
        rank.model->zero_grad();
        static_cast<void>(torch::autograd::grad({loss}, {rank.model->module()->weight}, {}, true));
        const auto wasted = rank.model->forward(constant_rows(9, 9));
        torch::autograd::backward({loss}, {}, true, false, {rank.model->module()->weight});
        rank.model->zero_grad();
        loss.backward();
      },
      [](int rank, int) { return rank + 1; });
}

TEST_P(DdpSamples, OfOutputsThatNobodyCanWatchCountAsIfUsed) {
  expect_average(
      [](const Rank& rank, int) {
        rank.model->forward(constant_rows(rank.number() + 1, rank.value()), std::string("hidden"))
            .loss.backward();
      },
      [](int rank, int) { return rank + 1; });
}

TEST_P(DdpSamples, OfOutputsThatNobodyCanWatchCountInOneAverageOnly) {
  const auto samples = [](int rank, int step) { return rank == 0 ? 1 + 4 * step : 2; };
  expect_average(
      [=](const Rank& rank, int step) {
        rank.model
            ->forward(constant_rows(samples(rank.number(), step), rank.value()),
                      std::string("hidden"))
            .loss.backward();
      },
      samples);
}

TEST_P(DdpSamples, AreSaidByTheProgramBeOrNotBeThereAny) {
  const auto samples = [](int rank, int step) { return rank == 0 && step != 1 ? 0 : rank + 2; };
  expect_average(
      [=](const Rank& rank, int step) {
        const auto loss =
            rank.model->forward(std::vector<torch::Tensor>(3, torch::full({1}, rank.value())));
        rank.model->set_samples(samples(rank.number(), step));
        loss.backward({}, /*retain_graph=*/true);
        rank.model->zero_grad();
        loss.backward();  // counts the same
      },
      samples);
}

TEST_P(DdpSamples, ThatAreSaidCountInOneAverageOnly) {
  expect_average(
      [](const Rank& rank, int step) {
        if (rank.number() == 0 && step == 0) rank.model->set_samples(5);
        rank.model->forward(constant_rows(1, rank.value())).backward();
      },
      [](int rank, int step) { return rank == 0 && step == 0 ? 5 : 1; });
}

TEST_P(DdpSamples, ThatAreSaidAfterABackwardThatThrewCount) {
  for (const bool says_before_forward : {true, false}) {
    expect_average(
        [=](const Rank& rank, int step) {
          auto& model = rank.model;
          if (step == 1) {
            model->set_samples(99);  // for a backward that fails
            const auto loss = model->forward(constant_rows(1, 9));
            const auto handle = loss.register_hook([](const torch::Tensor&) -> void {
              throw std::runtime_error("a hook of the program");
            });
            EXPECT_THROW(loss.backward(), std::runtime_error);
            loss.remove_hook(handle);
          }
          if (says_before_forward) model->set_samples(rank.number() + 2);
          const auto loss = model->forward(constant_rows(1, rank.value()));
          if (!says_before_forward) model->set_samples(rank.number() + 2);
          loss.backward();
        },
        [](int rank, int) { return rank + 2; });
  }
}

TEST_P(DdpSamples, OfABackwardThatThrewDoNotCount) {
  for (const bool converts : {false, true}) {  // the next forward finds the same reducer or not
    expect_average(
        [=](const Rank& rank, int step) {
          auto net = rank.model->module();
          const auto forward = [&](std::int64_t count, float value) {
            return rank.model->forward(constant_rows(count, value).to(net->weight.scalar_type()));
          };
          if (step == 1) {
            if (rank.number() == 0) rank.model->set_samples(7);
            const auto loss = forward(rank.number() == 0 ? 5 : 1, 9);
            loss.register_hook([](const torch::Tensor&) -> void {
              throw std::runtime_error("a hook of the program");
            });
            EXPECT_THROW(loss.backward(), std::runtime_error);
            rank.model->zero_grad();
            if (converts) net->to(torch::kDouble);
          }
          forward(1, rank.value()).backward();
        },
        one_sample_each);
  }
}

TEST_P(DdpSamples, ThatAreSaidBelongToTheForwardsOfTheirOwnAverage) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto model = wrap(group);
    const auto forward = [&] {
      const auto own = static_cast<float>(group->rank() + 1);
      return model->forward(std::vector<torch::Tensor>(3, torch::full({1}, own)));
    };
    const auto first = forward();
    model->set_samples(group->rank() + 2);
    first.backward({}, /*retain_graph=*/true);
    const float expected = gradient(model);
    model->zero_grad();
    model->set_samples(1);
    const auto second = forward();
    second.backward();
    EXPECT_FLOAT_EQ(gradient(model), static_cast<float>(group->size() + 1) / 2);
    model->zero_grad();
    first.backward();
    EXPECT_FLOAT_EQ(gradient(model), expected);
    group->close();
  });
}

TEST_P(DdpSamples, ThatNothingTellsInOneBackwardSayNothingAboutTheNext) {
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    auto model = wrap(group);
    model->set_samples(1);
    model->forward(std::vector<torch::Tensor>(3, torch::ones({1}))).backward();
    model->zero_grad();
    const auto loss = model->forward(constant_rows(2, static_cast<float>(group->rank() + 1)));
    EXPECT_NO_THROW(loss.backward());
    EXPECT_FLOAT_EQ(gradient(model), static_cast<float>(group->size() + 1) / 2);
    model->module()->weight.sum().backward();
  });
  for (const auto& error : errors) {
    expect_error<c10::Error>(error, "it goes through no output of forward");
  }
}

TEST_P(DdpSamples, OfAForwardCountOnceThoughTwoBackwardsGoThroughIt) {
  expect_average(
      [](const Rank& rank, int) {
        const auto half = rank.model->forward(constant_rows(1, rank.value())) / 2;
        if (rank.number() != 0) return (half + half).backward();
        {
          const auto guard = rank.model->no_sync();
          half.backward({}, /*retain_graph=*/true);
        }
        half.backward();
      },
      one_sample_each);
}

TEST_P(DdpSamples, ThatWaitedCountWhenTheParametersHaveAnotherDtype) {
  expect_average(
      [](const Rank& rank, int step) {
        const auto own = [&](int count) {
          const auto dtype = rank.model->module()->weight.scalar_type();
          return rank.model->forward(constant_rows(count, rank.value()).to(dtype)) / 2;
        };
        {
          const auto guard = rank.model->no_sync();
          own(1).backward();
        }
        rank.model->module()->to(step % 2 == 0 ? torch::kDouble : torch::kFloat);
        own(rank.number() + 1).backward();
      },
      [](int rank, int) { return rank + 2; });
}

/// The average of rank + 1, and of rank + 1 samples of each rank.
float mean_by_samples(int ranks) {
  float sum = 0;
  float total = 0;
  for (int rank = 1; rank <= ranks; ++rank) {
    sum += static_cast<float>(rank * rank);
    total += static_cast<float>(rank);
  }
  return sum / total;
}

/// Makes its weight in the first forward.
struct LateRowMeanImpl : torch::nn::Module {
  LateRowMeanImpl() { bias = register_parameter("bias", torch::zeros({1})); }
  torch::Tensor forward(const torch::Tensor& x) {
    if (!weight.defined()) weight = register_parameter("weight", torch::zeros({1}));
    return (x * weight).mean() + bias.sum();
  }
  torch::Tensor weight, bias;
};
TORCH_MODULE(LateRowMean);

TEST_P(DdpSamples, OfAForwardThatRegistersParametersCount) {
  for (const bool has_others : {true, false}) {
    run_ranks_or_throw(GetParam(), [=](const Group& group) {
      LateRowMean net;
      DistributedDataParallel<LateRowMean> model(
          net, group, DistributedDataParallelOptions().averaging(GradientAveraging::Samples));
      net->bias.set_requires_grad(has_others);
      const int own = group->rank() + 1;
      for (int step = 0; step < 2; ++step) {
        model->zero_grad();
        model->forward(constant_rows(own, static_cast<float>(own))).backward();
        EXPECT_FLOAT_EQ(net->weight.grad().item<float>(), mean_by_samples(group->size())) << step;
      }
      group->close();
    });
  }
}

/// Its output is its parameter.
struct LeafOutputImpl : torch::nn::Module {
  LeafOutputImpl() { weight = register_parameter("weight", torch::zeros({1})); }
  torch::Tensor forward(const torch::Tensor&) { return weight; }
  torch::Tensor weight;
};
TORCH_MODULE(LeafOutput);

TEST_P(DdpSamples, OfAnOutputThatIsAParameterCountAsIfUsed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    LeafOutput net;
    DistributedDataParallel<LeafOutput> model(
        net, group, DistributedDataParallelOptions().averaging(GradientAveraging::Samples));
    const auto x = constant_rows(group->rank() + 1, static_cast<float>(group->rank() + 1));
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      (x * model->forward(x)).mean().backward();
      EXPECT_FLOAT_EQ(net->weight.grad().item<float>(), mean_by_samples(group->size())) << step;
    }
    group->close();
  });
}

/// Backwards within its backward give its weight the same gradient again, as often as asked.
struct RepeatedMeanImpl : torch::nn::Module {
  RepeatedMeanImpl() {
    first = register_parameter("first", torch::zeros({1}));
    weight = register_parameter("weight", torch::zeros({1}));
  }
  torch::Tensor forward(const torch::Tensor& x, int times = 0) {
    const auto hidden = first * 1;
    for (int i = 0; i < times; ++i) {
      hidden.register_hook([this, x](const torch::Tensor&) {
        const torch::AutoGradMode with_gradients(true);
        mean(x).backward();
      });
    }
    return mean(x) + hidden.sum();
  }
  [[nodiscard]] torch::Tensor mean(const torch::Tensor& x) const { return (x * weight).mean(); }
  torch::Tensor first, weight;
};
TORCH_MODULE(RepeatedMean);

TEST_P(DdpSamples, OfGradientsThatComeSeveralTimesCount) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // The last of them is late, or its bucket still waits for the other parameter.
    for (const std::size_t cap : {std::size_t{1}, std::size_t{1} << 20}) {
      RepeatedMean net;
      DistributedDataParallel<RepeatedMean> model(net, group,
                                                  DistributedDataParallelOptions()
                                                      .averaging(GradientAveraging::Samples)
                                                      .bucket_caps_bytes({cap}));
      const int own = group->rank();
      for (int step = 0; step < 4; ++step) {
        const auto samples = [&](int rank) { return rank == 0 ? 0 : rank + step; };
        float sum = 0;
        float total = 0;
        for (int rank = 0; rank < group->size(); ++rank) {
          sum += static_cast<float>(samples(rank) * rank);
          total += static_cast<float>(samples(rank));
        }
        model->zero_grad();
        model->set_samples(samples(own));
        const auto x = constant_rows(2, own == 0 ? std::nanf("") : static_cast<float>(own));
        model->forward(x, /*times=*/step + 1).backward();
        EXPECT_EQ(model->statistics().late_parameters.empty(), cap > 1);
        // One rounding more for each gradient that is added.
        EXPECT_NEAR(net->weight.grad().item<float>(), static_cast<float>(step + 2) * sum / total,
                    1e-4)
            << "cap " << cap << ", step " << step;
      }
    }
    group->close();
  });
}

TEST_P(DdpSamples, OfSparseGradientsCount) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(4, 1).sparse(true));
    DistributedDataParallel<torch::nn::Embedding> model(
        words, group, DistributedDataParallelOptions().averaging(GradientAveraging::Samples));
    const int own = group->rank();
    for (int step = 0; step < 3; ++step) {
      const auto samples = [&](int rank) { return rank == 0 ? 0 : rank + step; };
      float total = 0;
      for (int rank = 0; rank < group->size(); ++rank) total += static_cast<float>(samples(rank));
      auto expected = torch::zeros({4, 1});
      for (int rank = 1; rank < group->size(); ++rank) {
        expected[rank] = static_cast<float>(samples(rank) * rank) / total;
      }
      if (total == 0) continue;
      model->zero_grad();
      model->set_samples(samples(own));
      const float factor = own == 0 ? std::nanf("") : static_cast<float>(own);
      (model->forward(torch::tensor({own})).sum() * factor).backward();
      EXPECT_TRUE(torch::allclose(words->weight.grad().to_dense(), expected))
          << words->weight.grad().to_dense();
    }
    group->close();
  });
}

TEST_P(DdpSamples, OfNobodyLeaveWhatWaitsForAFrozenParameterAsItIs) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    RepeatedMean net;
    DistributedDataParallel<RepeatedMean> model(
        net, group, DistributedDataParallelOptions().averaging(GradientAveraging::Samples));
    const auto own = static_cast<float>(group->rank() + 1);
    {
      const auto guard = model->no_sync();
      model->forward(constant_rows(2, own)).backward();
    }
    net->weight.set_requires_grad(false);
    model->set_samples(0);  // on all ranks, and for both forwards
    model->forward(constant_rows(2, own)).backward();
    EXPECT_EQ(net->weight.grad().item<float>(), own);
    group->close();
  });
}

TEST_P(DdpSamples, ThatNothingTellsAreAnErrorThatSaysSo) {
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    auto model = wrap(group);
    model->forward(std::vector<torch::Tensor>(3, torch::ones({1}))).backward();
  });
  for (const auto& error : errors) {
    expect_error<c10::Error>(error, "forward's first argument is no tensor of samples");
  }
  const auto others = run_ranks(GetParam(), [](const Group& group) {
    auto model = wrap(group);
    model->module()->weight.sum().backward();
  });
  for (const auto& error : others) {
    expect_error<c10::Error>(error, "it goes through no output of forward");
  }
}

}  // namespace
}  // namespace lockstep::testing
