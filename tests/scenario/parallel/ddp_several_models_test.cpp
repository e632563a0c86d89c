// SPDX-License-Identifier: BSD-3-Clause
// Several models of one process, on one group or on several, with ranks as threads.
#include "scenario/parallel/ddp_test_support.h"

namespace lockstep::testing {
namespace {

class DdpSeveralModels : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpSeveralModels, ::testing::Values(1, 2, 3));

/// Its gradient is the sum of the batch's rows.
struct OneWeightImpl : torch::nn::Module {
  OneWeightImpl() { weight = register_parameter("weight", torch::zeros({3})); }
  torch::Tensor forward(const torch::Tensor& x) { return (x * weight).sum(); }
  torch::Tensor weight;
};
TORCH_MODULE(OneWeight);
using WrappedWeight = DistributedDataParallel<OneWeight>;

float gradient_of_weight(const WrappedWeight& model) {
  return model->module()->weight.grad()[0].item<float>();
}

/// What ranks say that use the models in different orders.
void expect_order_error(int world_size, const std::string& first_name,
                        const std::string& second_name, const std::string& first,
                        const std::string& second) {
  const auto errors = run_ranks(world_size, [&](const Group& group) {
    WrappedWeight one(OneWeight(), group, Options().name(first_name));
    WrappedWeight other(OneWeight(), group, Options().name(second_name));
    (group->rank() == 0 ? one : other)->forward(row_of_rank(group)).backward();
    (group->rank() == 0 ? other : one)->forward(row_of_rank(group)).backward();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, first);
    expect_error<MismatchError>(error, second);
    expect_error<MismatchError>(error, "split(0)");
  }
}

TEST_P(DdpSeveralModels, ErrorsSayWhichModelRanksWereAt) {
  if (GetParam() == 1) return;
  expect_order_error(GetParam(), "", "", "rank 0 called all_reduce (Avg) of",
                     "'model 2: bucket 1 of 1'");
  expect_order_error(GetParam(), "encoder", "decoder", "'encoder (1): bucket",
                     "'decoder (2): bucket");
  expect_order_error(GetParam(), "net", "net", "'net (1): bucket 1 of 1'",
                     "'net (2): bucket 1 of 1'");
}

TEST_P(DdpSeveralModels, ShareAGroupWhereRanksUseThemInTheSameOrder) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    WrappedWeight one(OneWeight(), group);
    WrappedWeight other(OneWeight(), group, Options().name("other"));
    const auto mean = static_cast<float>(mean_row(group));
    for (int step = 0; step < 3; ++step) {
      one->zero_grad();
      other->zero_grad();
      one->forward(row_of_rank(group)).backward();
      other->forward(2 * row_of_rank(group)).backward();
      EXPECT_FLOAT_EQ(gradient_of_weight(one), mean);
      (one->forward(row_of_rank(group)) + other->forward(row_of_rank(group))).backward();
      EXPECT_FLOAT_EQ(gradient_of_weight(one), 2 * mean);
      EXPECT_FLOAT_EQ(gradient_of_weight(other), 3 * mean);
    }
    group->close();
  });
}

/// Rank r has r + 1 batches; a step trains one model, then freezes it and trains the other one with
/// it, as a discriminator and a generator are trained. Momentum shows every step.
void train_both_unevenly(const Group& group, const Group& other_group, bool steps_along) {
  WrappedWeight judge(OneWeight(), group, Options().name("judge"));
  WrappedWeight maker(OneWeight(), other_group, Options().name("maker"));
  torch::optim::SGD optimizer(judge->parameters(), torch::optim::SGDOptions(1).momentum(0.5));
  torch::optim::SGD other(maker->parameters(), torch::optim::SGDOptions(1).momentum(0.5));
  const auto freeze_judge = [&](bool is_frozen) {
    judge->module()->weight.set_requires_grad(!is_frozen);
  };
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (int batch = 0; batch <= group->rank(); ++batch) {
      freeze_judge(false);
      optimizer.zero_grad();
      judge->forward(row_of_rank(group)).backward();
      optimizer.step();
      freeze_judge(true);
      other.zero_grad();
      (maker->forward(row_of_rank(group)) + 0 * judge->forward(row_of_rank(group))).backward();
      other.step();
    }
    join({*judge, *maker}, steps_along ? std::function<void()>([&] {
           optimizer.step();
           other.step();
           optimizer.zero_grad();
           other.zero_grad();
         })
                                       : nullptr);
    EXPECT_EQ(maker->module()->weight.grad().defined(), group->size() == 1);
    double weight = 0;
    double momentum = 0;
    for (int step = 0; step < group->size() * (epoch + 1); ++step) {
      const int first = step % group->size();  // ranks from here on have data
      momentum = 0.5 * momentum + (first + 1 + group->size()) / 2.0;
      weight -= momentum;
    }
    if (!steps_along && epoch > 0) continue;  // optimizers have different states then
    EXPECT_FLOAT_EQ(judge->module()->weight[1].item<float>(), static_cast<float>(weight));
    EXPECT_FLOAT_EQ(maker->module()->weight[1].item<float>(), static_cast<float>(weight));
  }
}

TEST_P(DdpSeveralModels, AreJoinedByOneCall) {
  for (const bool steps_along : {true, false}) {
    run_ranks_or_throw(GetParam(), [=](const Group& group) {
      train_both_unevenly(group, group, steps_along);
      group->close();
    });
  }
}

TEST_P(DdpSeveralModels, OfGroupsOfTheirOwnAreJoinedByOneCall) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto other = group->split(0);
    train_both_unevenly(group, other, true);
    other->close();
    group->close();
  });
}

TEST_P(DdpSeveralModels, OfGroupsOfTheirOwnMayShareABackwardAndJoin) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto other_group = group->split(0);
    WrappedWeight last(OneWeight(), group);
    WrappedWeight first(OneWeight(), other_group);
    int steps = 0;
    for (; steps <= group->rank(); ++steps) {
      last->zero_grad();
      first->zero_grad();
      last->forward(row_of_rank(group) + first->forward(row_of_rank(group))).backward();
    }
    join({*last, *first}, [&] {
      // The ranks from `steps` on had data; the weights are zeros.
      EXPECT_FLOAT_EQ(gradient_of_weight(last), static_cast<float>(steps + 1 + group->size()) / 2);
      EXPECT_FLOAT_EQ(gradient_of_weight(first), 0);
      ++steps;
    });
    EXPECT_EQ(steps, group->size());
    other_group->close();
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
