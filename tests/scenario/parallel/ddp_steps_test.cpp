// SPDX-License-Identifier: BSD-3-Clause
// Several backwards a step, uneven data, buffers and communication hooks, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;
using torch::nn::Sequential;

class DdpSteps : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpSteps, ::testing::Values(1, 2, 3));

/// One weight for each of three features: its gradient is the sum of a batch's rows.
struct SumImpl : torch::nn::Module {
  SumImpl() { weight = register_parameter("weight", torch::zeros({3})); }
  torch::Tensor forward(const torch::Tensor& x) { return (x * weight).sum(); }
  torch::Tensor weight;
};
TORCH_MODULE(Sum);

torch::Tensor rows(std::int64_t count, float value) {
  return torch::full({count, 3}, value);
}

float gradient_of(const DistributedDataParallel<Sum>& model) {
  return model->module()->weight.grad()[2].item<float>();
}

TEST_P(DdpSteps, AccumulateWithoutCommunicationAndAverageOnce) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group);
    const auto own = static_cast<float>(group->rank() + 1);
    const auto mean = static_cast<float>(group->size() + 1) / 2;
    for (int step = 0; step < 2; ++step) {
      model->zero_grad(/*set_to_none=*/step == 0);
      {
        const auto guard = model->no_sync();
        // Different numbers of batches a rank: nobody waits for anybody.
        for (int i = 0; i < group->rank() + 2; ++i) model->forward(rows(1, own)).backward();
        EXPECT_FLOAT_EQ(gradient_of(model), own * static_cast<float>(group->rank() + 2));
      }
      model->forward(rows(1, own)).backward();
      float expected = 0;
      for (int rank = 0; rank < group->size(); ++rank) {
        expected += static_cast<float>((rank + 1) * (rank + 3)) / static_cast<float>(group->size());
      }
      EXPECT_FLOAT_EQ(gradient_of(model), expected);
    }
    // What counts is when backward runs.
    model->zero_grad();
    auto guard = std::make_unique<NoSyncGuard>(model->no_sync());
    const auto loss = model->forward(rows(1, own));
    guard.reset();
    loss.backward();
    EXPECT_FLOAT_EQ(gradient_of(model), mean);
    group->close();
  });
}

TEST_P(DdpSteps, AParameterOfAnEarlierBatchIsAveragedThoughTheLastOneDoesNotUseIt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 1));
    const auto extra = net->register_parameter("extra", torch::ones({1}));
    DistributedDataParallel<Sequential> model(net, group);
    {
      const auto guard = model->no_sync();
      (model->forward(torch::ones({1, 3})).sum() + extra.sum() * group->rank()).backward();
    }
    model->forward(torch::ones({1, 3})).sum().backward();
    EXPECT_FLOAT_EQ(extra.grad()[0].item<float>(), static_cast<float>(group->size() - 1) / 2);
    group->close();
  });
}

TEST_P(DdpSteps, GuardsNestAndOutliveTheirModel) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto model = std::make_unique<DistributedDataParallel<Sum>>(Sum(), group);
    const auto outer = (*model)->no_sync();
    { const auto inner = (*model)->no_sync(); }
    (*model)->forward(rows(1, 1)).backward();
    EXPECT_EQ((*model)->statistics().steps, 0U);
    model.reset();
    group->close();
  });
}

/// Rank r has r + 1 batches; what each step's gradient must be, by how ranks are weighed.
void train_unevenly(const Group& group, const Options& options, bool steps_along,
                    const std::function<float(int step, int ranks)>& expected) {
  DistributedDataParallel<Sum> model(Sum(), group, options);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(1).momentum(0.5));
  float weight = 0;
  float momentum = 0;
  const auto follow = [&](int step) {
    EXPECT_FLOAT_EQ(gradient_of(model), expected(step, group->size())) << "step " << step;
    optimizer.step();
    optimizer.zero_grad();
  };
  for (int epoch = 0; epoch < 2; ++epoch) {
    int step = 0;
    for (; step <= group->rank(); ++step) {
      model->forward(rows(group->rank() + 1, static_cast<float>(group->rank() + 1))).backward();
      follow(step);
    }
    model->join(steps_along ? std::function<void()>([&] { follow(step++); }) : nullptr);
    for (int i = 0; i < group->size(); ++i) {
      momentum = 0.5F * momentum + expected(i, group->size());
      weight -= momentum;
    }
    if (steps_along || epoch == 0) {
      EXPECT_FLOAT_EQ(model->module()->weight[1].item<float>(), weight) << "epoch " << epoch;
    }
  }
  group->close();
}

/// Rank r's gradient, as a sum over its r + 1 rows of value r + 1.
float own_gradient(int rank) {
  return static_cast<float>((rank + 1) * (rank + 1));
}

TEST_P(DdpSteps, RanksWithUnevenDataFinishTogether) {
  for (const bool steps_along : {true, false}) {
    run_ranks_or_throw(GetParam(), [=](const Group& group) {
      train_unevenly(group, Options(), steps_along, [](int step, int ranks) {
        float sum = 0;
        for (int rank = step; rank < ranks; ++rank) sum += own_gradient(rank);
        return sum / static_cast<float>(ranks - step);
      });
    });
  }
}

// Loops that call zero_grad first leave with the gradients of their last batch.
TEST_P(DdpSteps, AJoinedRankDoesNotStepWithAGradientOfItsLastBatch) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 1));
    const auto extra = net->register_parameter("extra", torch::ones({1}));
    DistributedDataParallel<Sequential> model(net, group);
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.5));
    for (int step = 0; step < (group->rank() == 0 ? 1 : 3); ++step) {
      model->zero_grad();
      auto loss = model->forward(torch::ones({1, 3})).sum();
      if (group->rank() == 0) loss = loss + extra.sum();  // then nobody uses it any more
      loss.backward();
      optimizer.step();
    }
    model->join([&] { optimizer.step(); });
    EXPECT_FLOAT_EQ(extra[0].item<float>(), 1 - 0.5F / static_cast<float>(group->size()));
    group->close();
  });
}

TEST_P(DdpSteps, OrAreDividedByTheWorldSizeAsInPyTorch) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = Options().averaging(GradientAveraging::AllRanks);
    train_unevenly(group, options, true, [](int step, int ranks) {
      float sum = 0;
      for (int rank = step; rank < ranks; ++rank) sum += own_gradient(rank);
      return sum / static_cast<float>(ranks);
    });
  });
}

TEST_P(DdpSteps, OrCountByTheirSamples) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = Options().averaging(GradientAveraging::Samples);
    train_unevenly(group, options, true, [](int step, int ranks) {
      float sum = 0;
      float samples = 0;
      for (int rank = step; rank < ranks; ++rank) {
        sum += static_cast<float>(rank + 1) * own_gradient(rank);
        samples += static_cast<float>(rank + 1);
      }
      return sum / samples;
    });
  });
}

TEST_P(DdpSteps, SamplesAreSaidWhereForwardDoesNotShowThem) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group,
                                       Options().averaging(GradientAveraging::Samples));
    for (int step = 0; step < 4; ++step) {  // the first one learns what is usual
      model->zero_grad();
      if (step % 2 == 0) model->set_samples(group->rank() + 1);  // before or after forward
      const auto loss = model->forward(rows(1, static_cast<float>(group->rank())));
      if (step % 2 != 0) model->set_samples(group->rank() + 1);
      loss.backward();
      float sum = 0;
      float samples = 0;
      for (int rank = 0; rank < group->size(); ++rank) {
        sum += static_cast<float>((rank + 1) * rank);
        samples += static_cast<float>(rank + 1);
      }
      EXPECT_FLOAT_EQ(gradient_of(model), sum / samples);
    }
    EXPECT_THROW(model->set_samples(-1), c10::Error);
    group->close();
  });
}

TEST_P(DdpSteps, SamplesWeighExactlyAndCountForEveryBackwardOfAForward) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sum net;
    net->to(torch::kDouble);
    DistributedDataParallel<Sum> model(net, group, Options().averaging(GradientAveraging::Samples));
    const int rank = group->rank();
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      const auto x = torch::full({rank + 2, 3}, rank + 0.1, torch::kDouble) / (rank + 2);
      const auto loss = model->forward(x);
      loss.backward({}, /*keep_graph=*/true);
      model->zero_grad();
      loss.backward();
      double sum = 0;
      double samples = 0;
      for (int other = 0; other < group->size(); ++other) {
        sum += (other + 2) * (other + 0.1);
        samples += other + 2;
      }
      EXPECT_NEAR(net->weight.grad()[1].item<double>(), sum / samples, 1e-14);
    }
    group->close();
  });
}

TEST_P(DdpSteps, JoinLeavesNoGradientsAlsoWhereAllHadTheSameData) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group);
    model->forward(rows(1, static_cast<float>(group->rank()))).backward();
    model->join([] { ADD_FAILURE() << "nobody had data left"; });
    EXPECT_FALSE(model->module()->weight.grad().defined());
    group->close();
  });
}

TEST_P(DdpSteps, JoinRefusesAStaticGraph) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group, Options().static_graph(true));
    EXPECT_THROW(model->join(), c10::Error);
    EXPECT_THROW(
        DistributedDataParallel<Sum>(
            Sum(), group, Options().static_graph(true).averaging(GradientAveraging::Samples)),
        c10::Error);
    group->close();
  });
}

TEST_P(DdpSteps, ALateOrSparseGradientFindsRanksThatHaveJoined) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Embedding(torch::nn::EmbeddingOptions(4, 2).sparse(true)));
    DistributedDataParallel<Sequential> model(net, group);
    const auto weight = net->named_parameters()["0.weight"];
    if (group->rank() == 0) {
      model->forward(torch::tensor({1})).sum().backward();
      EXPECT_FLOAT_EQ(weight.grad().to_dense()[1][0].item<float>(), 1);
    }
    model->join();
    group->close();
  });
}

/// Its buffer counts forwards, its other one holds whole numbers.
struct CountingImpl : torch::nn::Module {
  CountingImpl() {
    weight = register_parameter("weight", torch::ones({1}));
    mean = register_buffer("mean", torch::zeros({2}));
    calls = register_buffer("calls", torch::zeros({}, torch::kLong));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    mean.fill_(x[0].item<float>());
    calls += 1;
    return (x * weight).sum();
  }
  torch::Tensor weight, mean, calls;
};
TORCH_MODULE(Counting);

TEST_P(DdpSteps, BuffersStayLocalOrAreAveragedOrThoseOfRankZero) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto own = static_cast<float>(group->rank());
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    const auto mean_after = [&](BufferSync sync) {
      DistributedDataParallel<Counting> model(Counting(), group, Options().buffer_sync(sync));
      model->forward(torch::full({1}, own)).backward();
      EXPECT_EQ(model->module()->calls.item<std::int64_t>(), 1);
      return model->module()->mean[1].item<float>();
    };
    EXPECT_EQ(mean_after(BufferSync::Local), own);
    EXPECT_EQ(mean_after(BufferSync::Broadcast), 0);
    EXPECT_EQ(mean_after(BufferSync::Average), mean_rank);
    DistributedDataParallel<Counting> model(Counting(), group);
    model->forward(torch::full({1}, own));
    model->average_buffers();
    EXPECT_EQ(model->module()->mean[0].item<float>(), mean_rank);
    group->close();
  });
}

TEST_P(DdpSteps, BuffersOfRanksWithDataCount) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto sync : {BufferSync::Broadcast, BufferSync::Average}) {
      DistributedDataParallel<Counting> model(Counting(), group, Options().buffer_sync(sync));
      const int last = group->size() - 1;
      if (group->rank() == last) model->forward(torch::full({1}, 7.0F)).backward();
      model->join([] {});
      EXPECT_EQ(model->module()->mean[0].item<float>(), 7);
    }
    group->close();
  });
}

// --- communication hooks ---

TEST_P(DdpSteps, AHookTakesThePlaceOfTheAllReduce) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    ConvNet net;
    fill_parameters(*net);
    ConvNet reference;
    fill_parameters(*reference);
    DistributedDataParallel<ConvNet> model(
        net, group, Options().bucket_cap_bytes(600).first_bucket_cap_bytes(100).learn_order(false));
    std::vector<std::size_t> seen;
    std::uint64_t plan = 0;
    model->register_communication_hook([&](ProcessGroup& ranks, const GradientBucketView& bucket) {
      seen.push_back(bucket.index());
      plan = bucket.plan();
      EXPECT_EQ(bucket.gradients().size(), bucket.parameters().size());
      EXPECT_TRUE(bucket.gradients()[0].is_alias_of(bucket.buffer()));
      EXPECT_EQ(bucket.is_last(), bucket.index() + 1 == 5);
      // In double, in memory of its own.
      const auto wide = bucket.buffer().to(torch::kDouble);
      return ranks.all_reduce(wide).then(
          [wide, size = ranks.size()] { return (wide / size).to(torch::kFloat); });
    });
    const auto input = make_input(0, 12);
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      seen.clear();
      model->forward(share(input, group->rank(), group->size())).mean().backward();
      EXPECT_EQ(seen, (std::vector<std::size_t>{0, 1, 2, 3, 4}));
      EXPECT_EQ(plan, model->statistics().plan);
    }
    reference->forward(input).mean().backward();
    for (std::size_t i = 0; i < net->parameters().size(); ++i) {
      EXPECT_TRUE(torch::allclose(net->parameters()[i].grad(), reference->parameters()[i].grad(),
                                  1e-4, 1e-6));
    }
    model->register_communication_hook(nullptr);
    seen.clear();
    model->forward(share(input, group->rank(), group->size())).mean().backward();
    EXPECT_TRUE(seen.empty());
    group->close();
  });
}

/// Parameters of different sizes, none of which fills its cache lines.
struct UnequalImpl : torch::nn::Module {
  UnequalImpl() {
    small = register_parameter("small", torch::zeros({3}));
    large = register_parameter("large", torch::zeros({20}));
  }
  torch::Tensor forward(const torch::Tensor& x) { return x.sum() * (small.sum() + large.sum()); }
  torch::Tensor small, large;
};
TORCH_MODULE(Unequal);

TEST_P(DdpSteps, AHookFindsZerosBetweenGradients) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Unequal net;
    DistributedDataParallel<Unequal> model(net, group);
    int seen = 0;
    model->register_communication_hook([&](ProcessGroup& ranks, const GradientBucketView& bucket) {
      float sum = 0;
      for (const auto& gradient : bucket.gradients()) sum += gradient.sum().item<float>();
      EXPECT_EQ(bucket.buffer().sum().item<float>(), sum) << "backward " << seen;
      ++seen;
      return ranks.all_reduce(bucket.buffer(), ReduceOp::Avg).then([buffer = bucket.buffer()] {
        return buffer;
      });
    });
    for (int step = 0; step < 4; ++step) {
      // Alone, the small one gets the place of the large one.
      net->large.set_requires_grad(step % 2 == 0);
      model->zero_grad();
      model->forward(rows(1, 1)).backward();
    }
    EXPECT_EQ(seen, 4);
    group->close();
  });
}

TEST_P(DdpSteps, AHookLeavesGradientsOfUnusedParametersAlone) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Unequal net;
    // Buckets that stay as they are: the gradient lies in its bucket.
    DistributedDataParallel<Unequal> model(net, group, Options().learn_order(false));
    model->register_communication_hook([](ProcessGroup&, const GradientBucketView& bucket) {
      bucket.buffer().fill_(7);
      return make_future(bucket.buffer());
    });
    model->forward(rows(1, 1)).backward();
    const auto before = net->large.grad();
    before.fill_(5);
    net->small.sum().backward();
    EXPECT_EQ(net->small.grad()[0].item<float>(), 7);
    EXPECT_TRUE(net->large.grad().is_same(before));
    EXPECT_TRUE(torch::equal(before, torch::full({20}, 5.0F)));
    group->close();
  });
}

TEST_P(DdpSteps, AHookThatComesDuringBackwardIsRefusedAndForgotten) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group);
    const auto loss = model->forward(rows(1, 1));
    int attempts = 0;
    loss.register_hook([&](const torch::Tensor&) {
      ++attempts;
      EXPECT_THROW(model->register_communication_hook(
                       [](ProcessGroup&, const GradientBucketView&) -> Future<at::Tensor> {
                         throw std::runtime_error("it was refused");
                       }),
                   c10::Error);
    });
    loss.backward();
    EXPECT_EQ(attempts, 1);
    EXPECT_FLOAT_EQ(gradient_of(model), 1);
    model->module()->to(torch::kDouble);  // its gradients need other memory
    model->zero_grad();
    model->forward(rows(1, 2).to(torch::kDouble)).backward();
    EXPECT_EQ(model->module()->weight.grad()[0].item<double>(), 2);
    group->close();
  });
}

TEST_P(DdpSteps, WhatIsUnderWayWhenAHooksFutureThrowsIsFinishedFirst) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    ConvNet net;
    fill_parameters(*net);
    DistributedDataParallel<ConvNet> model(
        net, group, Options().bucket_cap_bytes(600).first_bucket_cap_bytes(100));
    bool fails = true;
    model->register_communication_hook([&](ProcessGroup& ranks, const GradientBucketView& bucket) {
      const bool throws = fails && bucket.index() == 1;
      return ranks.all_reduce(bucket.buffer(), ReduceOp::Avg).then([=] {
        if (throws) throw std::runtime_error("no future");
        return bucket.buffer();
      });
    });
    const auto input = make_input(0, 12);
    const auto backward = [&] {
      model->zero_grad();
      model->forward(share(input, group->rank(), group->size())).mean().backward();
    };
    for (int step = 0; step < 5; ++step) {
      fails = step % 2 == 0;
      if (fails) {
        EXPECT_THROW(backward(), std::runtime_error);
        continue;
      }
      backward();
      ConvNet reference;
      fill_parameters(*reference);
      reference->forward(input).mean().backward();
      EXPECT_TRUE(
          torch::allclose(net->fc->weight.grad(), reference->fc->weight.grad(), 1e-4, 1e-6));
    }
    group->close();
  });
}

TEST_P(DdpSteps, AHookThatThrowsOrGivesTheWrongSizeIsAnErrorOfBackward) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Sum> model(Sum(), group);
    model->register_communication_hook(
        [](ProcessGroup&, const GradientBucketView&) -> Future<at::Tensor> {
          throw std::runtime_error("no hook today");
        });
    EXPECT_THROW(model->forward(rows(1, 1)).backward(), std::runtime_error);
    model->register_communication_hook(
        [](ProcessGroup&, const GradientBucketView&) { return make_future(torch::ones({1})); });
    try {
      model->forward(rows(1, 1)).backward();
      ADD_FAILURE() << "the future has one element, and the bucket more";
    } catch (const c10::Error& error) {
      EXPECT_NE(error.msg().find("has 1 elements; the bucket has"), std::string::npos)
          << error.msg();
    }
    model->register_communication_hook(nullptr);
    model->zero_grad();
    model->forward(rows(1, 2)).backward();
    EXPECT_FLOAT_EQ(gradient_of(model), 2);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
