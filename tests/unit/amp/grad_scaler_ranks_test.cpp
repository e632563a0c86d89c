// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/amp/grad_scaler.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using amp::GradScaler;
using amp::GradScalerOptions;
using torch::Tensor;

constexpr float kOverflow = std::numeric_limits<float>::infinity();

/// What a rank has at the end; the same on all of them.
struct Outcome {
  Tensor weight;
  double scale = 0;
  Tensor growth_tracker;
};

Outcome outcome_of(const Tensor& weight, const GradScaler& scaler) {
  return {weight.detach().clone(), scaler.get_scale(), scaler.state().at("_growth_tracker")};
}

void expect_same(const std::vector<Outcome>& outcomes) {
  for (const auto& outcome : outcomes) {
    EXPECT_TRUE(torch::equal(outcome.weight, outcomes[0].weight))
        << outcome.weight << outcomes[0].weight;
    EXPECT_TRUE(outcome.weight.isfinite().all().item<bool>());
    EXPECT_EQ(outcome.scale, outcomes[0].scale);
    EXPECT_TRUE(torch::equal(outcome.growth_tracker, outcomes[0].growth_tracker));
  }
}

class GradScalerRanks : public ::testing::TestWithParam<int> {
 protected:
  using Body = std::function<Outcome(const std::shared_ptr<ProcessGroup>&)>;

  /// The outcomes of all ranks, which are equal.
  std::vector<Outcome> run(const Body& body) const {
    std::vector<Outcome> outcomes(static_cast<std::size_t>(GetParam()));
    run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      outcomes[static_cast<std::size_t>(group->rank())] = body(group);
      group->close();
    });
    expect_same(outcomes);
    return outcomes;
  }
  [[nodiscard]] static GradScalerOptions options(const std::shared_ptr<ProcessGroup>& group) {
    return GradScalerOptions().group(group).init_scale(64).growth_interval(3);
  }
  [[nodiscard]] int last() const { return GetParam() - 1; }
};
INSTANTIATE_TEST_SUITE_P(Ranks, GradScalerRanks, ::testing::Values(1, 2, 3));

TEST_P(GradScalerRanks, SkipTogetherWhatOneOfThemFound) {
  const auto outcomes = run([&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    const auto weight = torch::zeros({2}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
    for (int step = 0; step < 6; ++step) {
      optimizer.zero_grad();
      const bool overflows = step == 1 && group->rank() == last();
      scaler.scale((weight * (overflows ? kOverflow : 1)).sum()).backward();
      if (step % 2 == 1) scaler.unscale_(optimizer);
      EXPECT_EQ(scaler.step(optimizer), step != 1);
      scaler.update();
    }
    return outcome_of(weight, scaler);
  });
  EXPECT_EQ(outcomes[0].weight[0].item<float>(), -5);
  EXPECT_EQ(outcomes[0].scale, 64);  // 32 after the overflow, and grown after three more
}

/// A model of one weight without bias, whose gradient is the data.
torch::nn::Linear make_one_weight() {
  torch::nn::Linear net(torch::nn::LinearOptions(1, 1).bias(false));
  const torch::NoGradGuard no_gradients;
  net->weight.zero_();
  return net;
}

TEST_P(GradScalerRanks, StepTogetherAfterNoSync) {
  const auto outcomes = run([&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    auto net = make_one_weight();
    DistributedDataParallel<torch::nn::Linear> model(net, group);
    torch::optim::SGD optimizer(net->parameters(), 1.0);
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      std::optional<NoSyncGuard> alone;
      if (step < 3) alone.emplace(model->no_sync());
      const bool overflows = (step == 1 || step == 3) && group->rank() == last();
      const auto data = torch::full({1, 1}, overflows ? kOverflow : 1.0F);
      scaler.scale(model->forward(data).sum()).backward();
      EXPECT_EQ(scaler.step(optimizer), step != 1 && step != 3);
      scaler.update();
    }
    return outcome_of(net->weight, scaler);
  });
  EXPECT_EQ(outcomes[0].weight.item<float>(), -3);
  EXPECT_EQ(outcomes[0].scale, 16);
}

/// Rank r has 3 r batches, the last of all ranks an overflow in its second; then it joins.
Outcome train_unevenly(const std::shared_ptr<ProcessGroup>& group, bool joins_with_step) {
  GradScaler scaler(GradScalerOptions().group(group).init_scale(64).growth_interval(2));
  auto net = make_one_weight();
  DistributedDataParallel<torch::nn::Linear> model(net, group);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.5).momentum(0.9));
  const int last = group->size() - 1;
  const auto step = [&] {
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  };
  for (int batch = 0; batch < 3 * group->rank(); ++batch) {
    const bool overflows = group->rank() == last && batch == 1;
    const auto data =
        torch::full({1, 1}, overflows ? kOverflow : 0.3F + 0.1F * static_cast<float>(batch));
    scaler.scale(model->forward(data).sum()).backward();
    step();
  }
  if (joins_with_step) {
    model->join(step);
  } else {
    model->join();
  }
  return outcome_of(net->weight, scaler);
}

TEST_P(GradScalerRanks, JoinWithStepsOfTheScaler) {
  const auto outcomes = run([&](const auto& group) { return train_unevenly(group, true); });
  if (GetParam() == 1) return;
  EXPECT_NE(outcomes[0].weight.item<float>(), 0);
  // 3 (last) batches: the second overflows; with 2 ranks two follow, with 3 ranks four.
  EXPECT_EQ(outcomes[0].scale, GetParam() == 2 ? 32 : 128);
}

TEST_P(GradScalerRanks, JoinWithoutStepIsAnErrorAndNoHang) {
  if (GetParam() == 1) GTEST_SKIP() << "nobody waits for anybody";
  const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    train_unevenly(group, false);
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "GradScaler::step");
}

TEST_P(GradScalerRanks, RefuseScalesAndOptionsThatDiffer) {
  if (GetParam() == 1) GTEST_SKIP() << "there is no other rank";
  struct Case {
    std::string what;
    std::function<void(GradScalerOptions&)> change;
  };
  const std::vector<Case> cases{
      {"the scale is not the same", [](auto& changed) { changed.init_scale(32); }},
      {"growth_factor is not the same", [](auto& changed) { changed.growth_factor(3); }},
      {"backoff_factor is not the same", [](auto& changed) { changed.backoff_factor(0.25); }},
      {"growth_interval is not the same", [](auto& changed) { changed.growth_interval(5); }}};
  for (const auto& [what, change] : cases) {
    const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      auto its = options(group);
      if (group->rank() == last()) change(its);
      GradScaler scaler(its);
      const auto weight = torch::zeros({1}).requires_grad_();
      torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
      scaler.scale(weight.sum()).backward();
      try {
        scaler.step(optimizer);
        ADD_FAILURE() << "no error";
      } catch (const MismatchError& error) {
        EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
      }
      EXPECT_EQ(weight.item<float>(), 0);
      group->barrier();  // the group can go on
      group->close();
    });
    expect_no_errors(errors);
  }
}

TEST_P(GradScalerRanks, SayWhatDiffers) {
  if (GetParam() == 1) GTEST_SKIP() << "there is no other rank";
  const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    if (group->rank() == last()) {
      auto state = scaler.state();
      state["_growth_tracker"] = torch::full({}, 2, torch::kLong);
      scaler.load_state(state);
    }
    const auto weight = torch::zeros({1}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
    scaler.scale(weight.sum()).backward();
    scaler.step(optimizer);
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "the number of steps since it changed is not the same");
    expect_error<MismatchError>(error, "at least 0, at most 2");
  }
}

TEST_P(GradScalerRanks, AgreeInUpdateWhereNobodyStepped) {
  const auto outcomes = run([&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    const auto weight = torch::zeros({1}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
    const bool overflows = group->rank() == last();
    scaler.scale((weight * (overflows ? kOverflow : 1)).sum()).backward();
    scaler.unscale_(optimizer);
    scaler.update();
    return outcome_of(weight, scaler);
  });
  EXPECT_EQ(outcomes[0].scale, 32);
}

TEST_P(GradScalerRanks, TakeARankWithoutGradientsAlong) {
  run([&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    const auto weight = torch::zeros({1}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
    const bool has_data = group->rank() == last();
    if (has_data) scaler.scale((weight * kOverflow).sum()).backward();
    EXPECT_FALSE(scaler.step(optimizer));
    scaler.update();
    return outcome_of(weight, scaler);
  });
}

TEST_P(GradScalerRanks, RefuseAStepWithoutALossOrAGradientOnAnyRank) {
  const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    GradScaler scaler(options(group));
    const auto weight = torch::zeros({1}).requires_grad_();
    torch::optim::SGD optimizer(std::vector<Tensor>{weight}, 1.0);
    expect_refusal([&] { scaler.step(optimizer); }, "no loss has been scaled on any rank");
    GradScaler other(options(group));
    const auto loss = other.scale(weight.sum());
    expect_refusal([&] { other.step(optimizer); }, "has a gradient on any rank");
    group->close();
  });
  expect_no_errors(errors);
}

}  // namespace
}  // namespace lockstep::testing
