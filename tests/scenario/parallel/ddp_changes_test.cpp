// SPDX-License-Identifier: BSD-3-Clause
// Parameters that are frozen, thawed, registered, replaced or converted after wrapping, with ranks
// as threads.
#include "scenario/parallel/weights_net.h"
#include "support/forks.h"

namespace lockstep::testing {
namespace {

class DdpChanges : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpChanges, ::testing::Values(1, 2, 3));

void expect_values_of_rank_zero(const Group& group, const torch::nn::Module& net) {
  for (const auto& item : net.named_parameters()) {
    const torch::Tensor first = item.value().detach().clone();
    group->broadcast(first).wait();
    EXPECT_TRUE(torch::equal(first, item.value())) << item.key();
  }
}

// --- parameters that come later ---

TEST_P(DdpChanges, ParametersThatComeLaterGetTheValuesOfRankZero) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const auto own = static_cast<float>(group->rank() + 5);
    net->register_parameter("c", torch::full({3}, own));
    net->register_parameter("d", torch::full({3}, own), /*requires_grad=*/false);
    net->register_buffer("e", torch::full({3}, own));
    model->forward(row_of_rank(group), "abc").backward();
    expect_gradient(net->named_parameters()["c"], mean_row(group));
    expect_values_of_rank_zero(group, *net);
    EXPECT_EQ(net->named_buffers()["e"][0].item<float>(), 5);
    group->close();
  });
}

TEST_P(DdpChanges, AFrozenParameterThatCameLaterGetsThemWhenItIsThawed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    torch::Tensor later =
        net->register_parameter("c", torch::full({3}, group->rank() + 5.0), false);
    model->forward(row_of_rank(group)).backward();
    later.set_requires_grad(true);
    model->forward(row_of_rank(group), "c").backward();
    expect_gradient(later, mean_row(group));
    expect_values_of_rank_zero(group, *net);
    group->close();
  });
}

/// Makes its weight when it sees the first input, as lazy modules do.
struct LazyImpl : torch::nn::Module {
  explicit LazyImpl(int own) : rank(own) { bias = register_parameter("bias", torch::ones({1})); }
  torch::Tensor forward(const torch::Tensor& x) {
    if (!weight.defined()) {
      weight = register_parameter("weight", torch::full({x.size(1)}, rank + 1.0));
    }
    return (x * weight * weight).sum() + bias.sum();
  }
  int rank;
  torch::Tensor weight, bias;
};
TORCH_MODULE(Lazy);

TEST_P(DdpChanges, ParametersOfTheFirstForwardAreAveragedInItsBackwardAndEqualBehindIt) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Lazy net(group->rank());
    DistributedDataParallel<Lazy> model(net, group);
    std::unique_ptr<torch::optim::SGD> optimizer;
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      model->forward(row_of_rank(group)).backward();
      if (!optimizer) {
        // 2 * input * weight of each rank.
        double mean = 0;
        for (int rank = 1; rank <= group->size(); ++rank) mean += 2.0 * rank * rank / group->size();
        expect_gradient(net->weight, mean);
        expect_values_of_rank_zero(group, *net);
        optimizer = std::make_unique<torch::optim::SGD>(
            net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
      }
      optimizer->step();
    }
    expect_values_of_rank_zero(group, *net);
    EXPECT_LT(net->weight[0].item<float>(), 1);
    group->close();
  });
}

/// Makes each weight when a forward names it first.
struct LazyWeightsImpl : torch::nn::Module {
  explicit LazyWeightsImpl(int own) : rank(own) { register_parameter("bias", torch::ones({1})); }
  torch::Tensor forward(const torch::Tensor& x, const std::string& name) {
    if (!named_parameters().contains(name)) {
      register_parameter(name, torch::full({x.size(1)}, rank + 1.0));
    }
    return (x * named_parameters()[name]).sum() + named_parameters()["bias"].sum();
  }
  int rank;
};
TORCH_MODULE(LazyWeights);

TEST_P(DdpChanges, ParametersOfSeveralForwardsAreEqualBehindTheirOneBackward) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    LazyWeights net(group->rank());
    DistributedDataParallel<LazyWeights> model(net, group);
    const torch::Tensor row = row_of_rank(group);
    const torch::Tensor first = model->forward(row, "a");
    const torch::Tensor second = model->forward(row, "b");
    (first + second).backward();
    for (const char* name : {"a", "b"}) {
      expect_gradient(net->named_parameters()[name], mean_row(group));
    }
    expect_values_of_rank_zero(group, *net);
    group->close();
  });
}

TEST_P(DdpChanges, AGraphOfTheValuesBeforeThatIsAnErrorOnAllRanksAlike) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Lazy net(group->rank());
    DistributedDataParallel<Lazy> model(net, group);
    const torch::Tensor loss = model->forward(row_of_rank(group));
    loss.backward({}, /*retain_graph=*/true);
    loss.backward();
  });
  for (const auto& error : errors) {
    expect_error<c10::Error>(error, "modified by an inplace operation");
  }
}

TEST_P(DdpChanges, ParametersThatOneRankMadeBeforeAreEqualToo) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Lazy net(group->rank());
    DistributedDataParallel<Lazy> model(net, group);
    if (group->rank() == 0) {  // a look at one batch before the training
      const torch::NoGradGuard no_grad;
      model->forward(row_of_rank(group));
    }
    model->forward(row_of_rank(group)).backward();
    expect_values_of_rank_zero(group, *net);
    EXPECT_TRUE(net->weight.grad().defined());
    group->close();
  });
}

TEST_P(DdpChanges, ParametersThatComeLaterGoThroughTheCommunicationHookToo) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    std::size_t seen = 0;
    model->register_communication_hook([&](ProcessGroup& ranks, const GradientBucketView& bucket) {
      seen += bucket.parameters().size();
      return average_bucket(ranks, bucket);
    });
    model->forward(row_of_rank(group)).backward();
    EXPECT_EQ(seen, 2U);
    net->register_parameter("c", torch::ones({3}));
    model->forward(row_of_rank(group), "abc").backward();
    EXPECT_EQ(seen, 2U + 3U);
    expect_gradient(net->named_parameters()["c"], mean_row(group));
    group->close();
  });
}

TEST_P(DdpChanges, ParametersAreMadeEqualOnRequest) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().ignored_names({"b"}));
    const torch::NoGradGuard no_grad;
    net->a.fill_(group->rank());
    net->b.fill_(group->rank());
    model->broadcast_parameters(group->size() - 1);
    EXPECT_EQ(net->a[0].item<float>(), static_cast<float>(group->size() - 1));
    EXPECT_EQ(net->b[0].item<float>(), static_cast<float>(group->rank()));
    group->close();
  });
}

// --- parameters that get another form ---

TEST_P(DdpChanges, AnotherDtypeIsSeenByTheNextForward) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    model->forward(row_of_rank(group)).backward();
    net->to(at::kDouble);
    model->zero_grad();
    model->forward(row_of_rank(group, at::kDouble)).backward();
    expect_gradient(net->a, mean_row(group));
    EXPECT_EQ(net->a.grad().scalar_type(), at::kDouble);
    // There and back between two forwards: LibTorch has dropped the hooks.
    net->to(at::kFloat);
    net->to(at::kDouble);
    model->zero_grad();
    model->forward(row_of_rank(group, at::kDouble)).backward();
    expect_gradient(net->b, mean_row(group));
    group->close();
  });
}

TEST_P(DdpChanges, AnotherShapeIsSeenByTheNextForward) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    model->forward(row_of_rank(group)).backward();
    model->zero_grad();
    net->a.set_data(torch::ones({2, 3}));
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      model->forward(row_of_rank(group)).backward();
      expect_gradient(net->a, mean_row(group));
      expect_gradient(net->b, mean_row(group));
    }
    EXPECT_EQ(net->a.grad().sizes(), (std::vector<std::int64_t>{2, 3}));
    group->close();
  });
}

TEST_P(DdpChanges, AGradientThatWaitedWithAnotherShapeStaysAsItIs) {
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{2, 3}, {1}}) {
    run_ranks_or_throw(GetParam(), [&](const Group& group) {
      Weights net;
      WrappedWeights model(net, group);
      const torch::Tensor row = row_of_rank(group);
      add_up(model, row);
      net->a.set_data(torch::ones(shape));
      model->forward(row, "b").backward();
      EXPECT_TRUE(torch::equal(net->a.grad(), row[0])) << net->a.grad();
      expect_gradient(net->b, 2 * mean_row(group));
      group->close();
    });
  }
}

TEST_P(DdpChanges, GradientsThatWaitFollowTheDtype) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    add_up(model, row_of_rank(group));
    net->to(at::kDouble);
    model->forward(row_of_rank(group, at::kDouble), "b").backward();
    expect_gradient(net->a, mean_row(group));
    expect_gradient(net->b, 2 * mean_row(group));
    group->close();
  });
}

// --- sets of parameters that come back ---

TEST_P(DdpChanges, ADiscriminatorMayBeFrozenForTheGeneratorsStep) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights generator, discriminator;
    WrappedWeights made(generator, group), judged(discriminator, group);
    const torch::Tensor row = row_of_rank(group);
    for (int step = 0; step < 3; ++step) {
      judged->zero_grad();
      judged->forward(row).backward();
      expect_gradient(discriminator->a, mean_row(group));
      set_frozen(*discriminator, true);
      made->zero_grad();
      judged->forward(made->forward(row).view({1, 1})).backward();
      expect_gradient(generator->b, 6 * mean_row(group));
      expect_gradient(discriminator->a, mean_row(group));
      set_frozen(*discriminator, false);
    }
    if (group->size() > 1) {
      EXPECT_EQ(judged->statistics().steps, 3U);
      EXPECT_LE(judged->statistics().plan, 2U) << "once by registration, once by what was learned";
    }
    group->close();
  });
}

void freeze_in_turns(const Group& group, bool has_hook) {
  Weights net;
  WrappedWeights model(net, group);
  if (has_hook) model->register_communication_hook(average_bucket);
  const torch::Tensor row = row_of_rank(group);
  std::uint64_t assignments = 0;
  for (int step = 0; step < 12; ++step) {
    const bool is_frozen = step % 2 == 1;
    net->a.set_requires_grad(!is_frozen);
    if (!is_frozen) model->zero_grad();
    model->forward(row * (step + 1)).backward();
    expect_gradient(net->a, mean_row(group) * (is_frozen ? step : step + 1));
    expect_gradient(net->b, mean_row(group) * (is_frozen ? 2 * step + 1 : step + 1));
    if (step == 5) assignments = model->statistics().plan;
  }
  EXPECT_EQ(model->statistics().plan, assignments) << "sets that come back keep theirs";
  EXPECT_EQ(model->statistics().steps, group->size() > 1 ? 12U : 0U);
}

TEST_P(DdpChanges, SetsThatComeBackKeepTheirBuckets) {
  for (const bool has_hook : {false, true}) {
    run_ranks_or_throw(GetParam(), [=](const Group& group) {
      freeze_in_turns(group, has_hook);
      group->close();
    });
  }
}

TEST_P(DdpChanges, MoreSetsThanAreKeptAreStillRight) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Sequential net;
    for (int i = 0; i < 5; ++i) net->push_back(torch::nn::Linear(2, 2));
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    for (int step = 0; step < 62; ++step) {
      const int set = step % 31 + 1;
      for (int i = 0; i < 5; ++i) {
        set_frozen(*net[i], (set >> i & 1) == 0);
      }
      model->zero_grad();
      (model->forward(torch::ones({1, 2})).sum() * (group->rank() + 1)).backward();
      for (int i = 0; i < 5; ++i) {
        const torch::Tensor gradient = net[i]->parameters()[1].grad();
        ASSERT_EQ(gradient.defined(), (set >> i & 1) != 0) << step << " " << i;
      }
      if ((set >> 4 & 1) != 0) expect_gradient(net[4]->parameters()[1], mean_row(group));
    }
    group->close();
  });
}

// --- where ranks do not do the same ---

/// Gradients of ranks that do something of their own to their module before they use it.
std::vector<std::exception_ptr> errors_behind(
    int ranks, const std::function<void(int rank, Weights& net)>& change) {
  return run_ranks(ranks, [&](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    change(group->rank(), net);
    model->forward(row_of_rank(group)).backward();
  });
}

TEST_P(DdpChanges, WhatOneRankAloneFreezesIsAnErrorOnAllThatNamesIt) {
  if (GetParam() == 1) return;
  const auto errors = errors_behind(GetParam(), [](int rank, Weights& net) {
    if (rank == 1) net->b.set_requires_grad(false);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "'model 1, 1 frozen: ");
  expect_error<MismatchError>(errors[1], "this rank has frozen 'b'");
}

TEST_P(DdpChanges, WhatOneRankAloneFreezesIsNamedInTheMiddleOfBackwardToo) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Weights net;
    net->register_parameter("c", torch::ones({3}));
    WrappedWeights model(net, group, Options().bucket_caps_bytes({1}));
    if (group->rank() == 1) net->a.set_requires_grad(false);
    // When the bucket of `c` is under way, and before that of `b` is launched.
    net->b.register_hook([&](const torch::Tensor&) { EXPECT_ANY_THROW(group->barrier()); });
    model->forward(row_of_rank(group), "abc").backward();
  });
  expect_error<MismatchError>(errors[1], "this rank has frozen 'a'");
}

TEST_P(DdpChanges, ConversionOnOneRankAloneIsAnErrorOnAll) {
  if (GetParam() == 1) return;
  const auto errors = errors_behind(GetParam(), [](int rank, Weights& net) {
    if (rank == 1) net->to(at::kDouble);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "model 1: new parameters");
  expect_error<MismatchError>(errors[1], "got another dtype, device or shape");
}

TEST_P(DdpChanges, RanksThatFreezeDifferentOnesOfTheSameSizeGetAnError) {
  if (GetParam() == 1) return;
  const auto errors = errors_behind(GetParam(), [](int rank, Weights& net) {
    (rank == 1 ? net->b : net->a).set_requires_grad(false);
  });
  expect_error<MismatchError>(errors[0], "this rank has frozen 'a'");
  expect_error<MismatchError>(errors[1], "this rank has frozen 'b'");
}

TEST_P(DdpChanges, AForwardWithAllFrozenOnOneRankAloneIsAnErrorOnAll) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    for (int step = 0; step < 3; ++step) take_step(group, model, group->rank() == 1 && step == 1);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "with all parameters frozen");
}

TEST_P(DdpChanges, AForwardWithAllFrozenOnAllRanksDoesNotHideALaterOneOnOneRank) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    take_step(group, model, true);
    take_step(group, model, false);
    for (int step = 0; step < 3; ++step) take_step(group, model, group->rank() == 1 && step == 1);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "with all parameters frozen");
}

TEST_P(DdpChanges, RanksMayMakeSuchForwardsBeforeTheyJoin) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (int step = 0; step < (group->rank() == 0 ? 2 : 1); ++step) {
        model->zero_grad();
        take_step(group, model, false);
        take_step(group, model, true);
      }
      set_frozen(*net, false);
      model->join();
    }
    group->close();
  });
}

TEST_P(DdpChanges, ThatErrorComesOnce) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    int errors = 0;
    // Rank 1 leaves one average out, so that it makes one step more.
    for (int step = group->rank() == 1 ? -1 : 0; step < 4; ++step) {
      model->zero_grad();
      try {
        take_step(group, model, group->rank() == 1 && step == 0);
      } catch (const MismatchError&) {
        ++errors;
      }
    }
    EXPECT_EQ(errors, 1);
    expect_gradient(net->a, mean_row(group));
    group->close();
  });
}

TEST_P(DdpChanges, ARankThatJoinedDropsTheLastGradientOfAFrozenParameter) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
    const int steps = group->rank() == 0 ? 2 : 1;
    for (int step = 0; step < steps; ++step) {
      model->zero_grad();
      model->forward(row_of_rank(group)).backward();
      optimizer.step();
      net->a.set_requires_grad(false);
    }
    model->join([&] { optimizer.step(); });
    expect_values_of_rank_zero(group, *net);
    group->close();
  });
}

TEST_P(DdpChanges, WhatWaitedOnARankThatJoinedMakesNoParameterUsed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    if (group->rank() == 0) {
      model->forward(row_of_rank(group), "a").backward();
      EXPECT_TRUE(net->a.grad().defined());
      EXPECT_FALSE(net->b.grad().defined()) << "no rank with data used it";
    } else {
      add_up(model, row_of_rank(group));
    }
    model->join();
    group->close();
  });
}

// Autograd of LibTorch refuses to work in a fork where there is a GPU.
TEST_P(DdpChanges, AForkThatTrainsTheModuleItselfTrainsAlone) {
  if (torch::cuda::is_available()) GTEST_SKIP();
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    model->forward(row).backward();
    model->zero_grad();
    group->barrier();
    run_in_fork([&] {
      net->forward(row).backward();
      if (net->a.grad()[0].item<double>() != group->rank() + 1.0) {
        throw std::runtime_error("another gradient");
      }
    });
    model->forward(row).backward();
    expect_gradient(net->a, mean_row(group));
    group->close();
  });
}

TEST_P(DdpChanges, AParameterThatOneRankAloneCannotAverageIsAnErrorOnAll) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Weights net;
    if (group->rank() == 1) net->to(at::kFloat8_e5m2);
    WrappedWeights model(net, group);
  });
  for (const auto& error : errors) expect_error<c10::Error>(error, "(on rank 1)");
}

}  // namespace
}  // namespace lockstep::testing
