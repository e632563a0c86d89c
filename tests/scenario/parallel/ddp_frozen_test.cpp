// SPDX-License-Identifier: BSD-3-Clause
// Parameters that are frozen while their gradients wait, and in static graphs, with ranks as
// threads.
#include "scenario/parallel/weights_net.h"

namespace lockstep::testing {
namespace {

class DdpFrozen : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpFrozen, ::testing::Values(1, 2, 3));

// --- gradients that wait when their parameters are frozen ---

TEST_P(DdpFrozen, WhatWaitedWhenItsParameterWasFrozenIsAveragedByTheNextBackward) {
  for (const bool is_static : {false, true}) {
    run_ranks_or_throw(GetParam(), [=](const Group& group) {
      Weights net;
      WrappedWeights model(net, group, Options().static_graph(is_static));
      const torch::Tensor row = row_of_rank(group);
      add_up(model, row);
      net->a.set_requires_grad(false);
      model->forward(row).backward();
      expect_gradient(net->a, mean_row(group));
      expect_gradient(net->b, 2 * mean_row(group));
      model->zero_grad();
      model->forward(row).backward();
      EXPECT_FALSE(net->a.grad().defined());
      expect_gradient(net->b, mean_row(group));
      net->a.set_requires_grad(true);
      model->forward(row, "a").backward();
      expect_gradient(net->a, mean_row(group));
      group->close();
    });
  }
}

TEST_P(DdpFrozen, WhatWaitedOnOneRankAloneIsAveragedToo) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    if (group->rank() == 0) add_up(model, row);
    net->a.set_requires_grad(false);
    model->forward(row, "b").backward();
    expect_gradient(net->a, 1.0 / group->size());
    expect_gradient(net->b, mean_row(group) + 1.0 / group->size());
    group->close();
  });
}

TEST_P(DdpFrozen, WhatWaitedWhenItsParameterWasFrozenIsDividedByTheRanksWithData) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    if (group->rank() == 0) add_up(model, row);
    net->a.set_requires_grad(false);
    if (group->rank() == 0) {
      model->forward(row, "b").backward();
      expect_gradient(net->a, 1);
      expect_gradient(net->b, 2);
    }
    model->join();
    group->close();
  });
}

TEST_P(DdpFrozen, WhatWaitedWhenItsParameterWasFrozenCountsByItsSamples) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().averaging(GradientAveraging::Samples));
    const torch::Tensor row = row_of_rank(group);
    double sum = 0;
    double samples = 0;
    for (int rank = 0; rank < group->size(); ++rank) {
      sum += (rank + 1) * (rank + 1.0);
      samples += rank + 1;
    }
    for (int step = 0; step < 2; ++step) {  // the first one learns what is usual
      model->zero_grad();
      add_up(model, row);
      net->a.set_requires_grad(false);
      model->set_samples(group->rank() + 1);
      model->forward(row, "b").backward();
      expect_gradient(net->a, sum / samples);
      expect_gradient(net->b, 2 * sum / samples);
      net->a.set_requires_grad(true);
    }
    group->close();
  });
}

// As a parameter in a bucket does, which other ranks use and this one does not.
TEST_P(DdpFrozen, TheLastAverageOfAFrozenParameterStaysThoughMoreWaitedOnOneRank) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    model->forward(row).backward();
    if (group->rank() == 0) add_up(model, row);
    net->a.set_requires_grad(false);
    model->forward(row, "b").backward();
    expect_gradient(net->a, mean_row(group) + 1.0 / group->size());
    expect_gradient(net->b, 2 * mean_row(group) + 1.0 / group->size());
    model->forward(row, "b").backward();
    expect_gradient(net->a, mean_row(group) + 1.0 / group->size());
    EXPECT_TRUE(model->statistics().late_parameters.empty()) << "it is not reduced again";
    group->close();
  });
}

TEST_P(DdpFrozen, WhatWaitedWhenAnotherParameterWasThawedIsAveraged) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    net->b.set_requires_grad(false);
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    add_up(model, row, "a");
    net->b.set_requires_grad(true);
    model->forward(row, "b").backward();
    expect_gradient(net->a, mean_row(group));
    expect_gradient(net->b, mean_row(group));
    group->close();
  });
}

TEST_P(DdpFrozen, WhatWaitedWhenAllWereFrozenIsAveraged) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    add_up(model, row);
    take_step(group, model, /*is_frozen=*/true);
    expect_gradient(net->a, mean_row(group));
    expect_gradient(net->b, mean_row(group));
    group->close();
  });
}

TEST_P(DdpFrozen, WhatIsThawedBetweenForwardAndBackwardIsAveraged) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group);
    const torch::Tensor row = row_of_rank(group);
    const torch::Tensor with_both = model->forward(row);
    net->a.set_requires_grad(false);
    const torch::Tensor with_one = model->forward(row);
    net->a.set_requires_grad(true);
    (with_both + with_one).backward();
    expect_gradient(net->a, mean_row(group));
    expect_gradient(net->b, 2 * mean_row(group));
    group->close();
  });
}

TEST_P(DdpFrozen, ASparseGradientThatWaitedStaysSparse) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(6, 2).sparse(true));
    torch::nn::Linear last(2, 1);
    torch::nn::Sequential net(words, last);
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    const auto row = torch::tensor({group->rank()});
    {
      const auto guard = model->no_sync();
      model->forward(row).sum().backward();
    }
    words->weight.set_requires_grad(false);
    model->forward(row).sum().backward();
    ASSERT_TRUE(words->weight.grad().is_sparse());
    const torch::Tensor dense = words->weight.grad().to_dense();
    const torch::Tensor expected = torch::zeros({6, 2});
    expected.narrow(0, 0, group->size()).copy_(last->weight.detach() / group->size());
    EXPECT_TRUE(torch::allclose(dense, expected)) << dense;
    group->close();
  });
}

TEST_P(DdpFrozen, AGradientThatWaitedMayBeSparseOnOneRankAndDenseOnAnother) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(6, 2).sparse(true));
    torch::nn::Linear last(2, 1);
    torch::nn::Sequential net(words, last);
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    {
      const auto guard = model->no_sync();
      if (group->rank() == 0) {
        model->forward(torch::tensor({2})).sum().backward();
      } else {
        words->weight.sum().backward();
      }
    }
    words->weight.set_requires_grad(false);
    model->forward(torch::tensor({0})).sum().backward();
    const auto ranks = static_cast<float>(group->size());
    torch::Tensor expected = torch::full({6, 2}, (ranks - 1) / ranks);
    expected[2] += last->weight.detach()[0] / ranks;
    EXPECT_TRUE(torch::allclose(words->weight.grad().to_dense(), expected)) << words->weight.grad();
    group->close();
  });
}

TEST_P(DdpFrozen, WhatWaitedKeepsItsDtypeThoughItTravelsInASmallerOne) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().reduce_dtype(torch::kBFloat16));
    add_up(model, row_of_rank(group));
    net->a.set_requires_grad(false);
    model->forward(row_of_rank(group), "b").backward();
    expect_gradient(net->a, mean_row(group));
    EXPECT_EQ(net->a.grad().scalar_type(), torch::kFloat);
    group->close();
  });
}

// --- static graphs ---

TEST_P(DdpFrozen, AStaticGraphLearnsAnewWhatIsUsedWheneverTheSetChanges) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().static_graph(true));
    const torch::Tensor row = row_of_rank(group);
    model->forward(row, "a").backward();
    expect_gradient(net->a, mean_row(group));
    EXPECT_FALSE(net->b.grad().defined());
    net->a.set_requires_grad(false);
    model->forward(row, "b").backward();
    expect_gradient(net->b, mean_row(group));
    net->a.set_requires_grad(true);
    model->zero_grad();
    model->forward(row, "a").backward();
    EXPECT_FALSE(net->b.grad().defined()) << "no rank used it";
    if (group->size() > 1) {
      EXPECT_THROW(model->forward(row).backward(), c10::Error) << "the set is the same";
    }
    group->close();
  });
}

TEST_P(DdpFrozen, AStaticGraphLearnsThatThoughABackwardThrewOnOneRank) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().static_graph(true));
    const torch::Tensor row = row_of_rank(group);
    model->forward(row, "a").backward();
    net->a.set_requires_grad(false);
    const torch::Tensor loss = model->forward(row, "b");
    if (group->rank() == 0) {
      const auto handle = net->b.register_hook(
          [](const torch::Tensor&) -> void { throw std::runtime_error("a hook of the program"); });
      EXPECT_THROW(loss.backward({}, /*retain_graph=*/true), std::runtime_error);
      net->b.remove_hook(handle);
    }
    loss.backward();
    expect_gradient(net->b, mean_row(group));
    group->close();
  });
}

TEST_P(DdpFrozen, AStaticGraphRefusesAGradientOfAParameterThatWasFrozen) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().static_graph(true));
    const torch::Tensor row = row_of_rank(group);
    const torch::Tensor with_both = model->forward(row);
    net->a.set_requires_grad(false);
    model->forward(row).backward();
    net->a.set_requires_grad(true);
    expect_error_everywhere(group, "parameter 'a' got a gradient, though it was frozen",
                            [&] { with_both.backward(); });
  });
}

TEST_P(DdpFrozen, AStaticGraphRefusesWhatWaitsForAFrozenParameterWhereTheSetIsTheSame) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Weights net;
    WrappedWeights model(net, group, Options().static_graph(true));
    const torch::Tensor row = row_of_rank(group);
    net->a.set_requires_grad(false);
    model->forward(row, "b").backward();
    net->a.set_requires_grad(true);
    add_up(model, row);
    net->a.set_requires_grad(false);
    const torch::Tensor loss = model->forward(row, "b");
    expect_error_everywhere(group, "parameter 'a' has a gradient that waits",
                            [&] { loss.backward(); });
  });
}

}  // namespace
}  // namespace lockstep::testing
