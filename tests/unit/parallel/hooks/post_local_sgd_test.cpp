// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using hooks::PeriodicModelAverager;
using hooks::PostLocalSgd;
using LocalSgdOptions = hooks::PostLocalSgdOptions;

class LocalSgd : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, LocalSgd, ::testing::Values(2, 3));

TEST_P(LocalSgd, AveragesGloballyUntilItStartsThenKeepsGradientsLocal) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const PostLocalSgd hook(LocalSgdOptions().start_iteration(2));
    HandMadeBucket bucket(make_parameters({{4}}), torch::kFloat);
    const float own = static_cast<float>(group->rank() * 2);
    const float mean = static_cast<float>(group->size() - 1);
    for (int step = 0; step < 4; ++step) {
      // The first of two buckets of this step: it does not count.
      hook(*group, HandMadeBucket(make_parameters({{2}}), torch::kFloat).view(0, false)).wait();
      const auto average = bucket.reduce(*group, hook, {torch::full({4}, own)})[0];
      EXPECT_EQ(average[1].item<float>(), step < 2 ? mean : own) << step;
    }
    EXPECT_EQ(hook.steps(), 4U);
    group->close();
  });
}

TEST_P(LocalSgd, OrAveragesWithinASubgroup) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // Ranks 0 and 1, and the rest.
    const auto subgroup = group->split(group->rank() / 2);
    const PostLocalSgd hook(LocalSgdOptions().start_iteration(1).subgroup(subgroup));
    HandMadeBucket bucket(make_parameters({{4}}), torch::kFloat);
    const auto own = torch::full({4}, static_cast<float>(group->rank() * 2));
    const float all = static_cast<float>(group->size() - 1);
    EXPECT_EQ(bucket.reduce(*group, hook, {own})[0][0].item<float>(), all);
    EXPECT_EQ(bucket.reduce(*group, hook, {own})[0][0].item<float>(), group->rank() < 2 ? 1 : 4);
    subgroup->close();
    group->close();
  });
}

TEST_P(LocalSgd, TrainsForItselfAndMeetsAgainWithTheOthers) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // In the memory of the group, with a subgroup that has another.
    const auto subgroup = group->split(group->rank() / 2);
    torch::nn::Linear net(3, 1);
    DistributedDataParallel<torch::nn::Linear> model(net, group);
    model->register_communication_hook(
        PostLocalSgd(LocalSgdOptions().start_iteration(2).subgroup(subgroup)));
    PeriodicModelAverager averager(group, 3, 2);
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1));
    for (int step = 0; step < 9; ++step) {
      optimizer.zero_grad();
      model->forward(wave({2, 3}, group->rank(), step).to(torch::kFloat)).pow(2).sum().backward();
      optimizer.step();
      const bool has_averaged = averager.average_parameters(model->parameters());
      EXPECT_EQ(has_averaged, step == 2 || step == 5 || step == 8);
      const auto all = torch::empty({group->size(), 1, 3});
      group->all_gather(all, net->weight.detach().clone()).wait();
      const bool is_equal = torch::equal(all[0], all[group->size() - 1]);
      EXPECT_EQ(is_equal, step < 2 || has_averaged || (group->size() == 2)) << step;
    }
    subgroup->close();
    group->close();
  });
}

TEST_P(LocalSgd, CountsWholeGradientsOfRanksThatGoOnAlone) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Linear net(torch::nn::LinearOptions(2, 1).bias(false));
    DistributedDataParallel<torch::nn::Linear> model(
        net, group, DistributedDataParallelOptions().averaging(GradientAveraging::AllRanks));
    model->register_communication_hook(PostLocalSgd());
    for (int step = 0; step <= group->rank(); ++step) {
      model->zero_grad();
      model->forward(torch::full({1, 2}, 3.0F)).sum().backward();
      EXPECT_EQ(net->weight.grad()[0][0].item<float>(), 3);
    }
    model->join([] {});
    group->close();
  });
}

TEST_P(LocalSgd, AveragesParametersOfAllKindsThatHaveAGradient) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const double own = group->rank() * 2;
    const double mean = group->size() - 1;
    std::vector<torch::Tensor> parameters;
    for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kHalf, torch::kFloat}) {
      parameters.push_back(torch::full({3, 2}, own, dtype).requires_grad_());
      parameters.back().mutable_grad() = torch::zeros({3, 2}, dtype);
    }
    parameters.push_back(torch::full({2, 3, 4, 5}, own)
                             .contiguous(torch::MemoryFormat::ChannelsLast)
                             .requires_grad_());
    parameters.back().mutable_grad() = torch::zeros_like(parameters.back());
    parameters.push_back(torch::full({2}, own).requires_grad_());  // not used
    EXPECT_TRUE(PeriodicModelAverager(group, 1).average_parameters(parameters));
    for (std::size_t i = 0; i + 1 < parameters.size(); ++i) {
      EXPECT_TRUE(parameters[i].eq(mean).all().item<bool>()) << i;
      EXPECT_TRUE(parameters[i].is_leaf() && parameters[i].requires_grad());
    }
    EXPECT_TRUE(parameters.back().eq(own).all().item<bool>());
    group->close();
  });
}

TEST(PeriodicModelAveragerSteps, AreThoseOfPyTorch) {
  run_ranks_or_throw(1, [](const Group& group) {
    const auto parameter = torch::ones({1}).requires_grad_();
    parameter.mutable_grad() = torch::ones({1});
    PeriodicModelAverager averager(group, 4, 3);
    std::vector<std::int64_t> steps;
    for (int step = 0; step < 14; ++step) {
      if (averager.average_parameters({parameter})) steps.push_back(step);
    }
    EXPECT_EQ(steps, (std::vector<std::int64_t>{3, 7, 11}));
    EXPECT_EQ(averager.step(), 14);
    group->close();
  });
}

TEST(PeriodicModelAveragerOptions, AreRefusedByName) {
  run_ranks_or_throw(1, [](const Group& group) {
    const auto text = [](const std::function<void()>& call) {
      try {
        call();
      } catch (const c10::Error& error) {
        return std::string(error.what_without_backtrace());
      }
      return std::string("no error");
    };
    EXPECT_EQ(text([&] { PeriodicModelAverager(group, 0); }),
              "PeriodicModelAverager: period is 0; allowed are 1 and more");
    EXPECT_EQ(text([&] { PeriodicModelAverager(group, 1, -1); }),
              "PeriodicModelAverager: warmup_steps is -1; allowed are 0 and more");
    EXPECT_NE(text([&] { PeriodicModelAverager(nullptr, 1); }).find("group is null"),
              std::string::npos);
    EXPECT_NE(text([&] {
                PeriodicModelAverager(group, 1).average_parameters({torch::ones({1})});
              }).find("none of 1 parameters has a gradient"),
              std::string::npos);
    group->close();
  });
}

TEST_P(LocalSgd, NoticesRanksWithOtherGradients) {
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    const auto parameter = torch::ones({2 + group->rank()}).requires_grad_();
    parameter.mutable_grad() = torch::ones_like(parameter);
    PeriodicModelAverager(group, 1).average_parameters({parameter});
  });
  for (const auto& error : errors) expect_error<MismatchError>(error, "average of parameters");
}

}  // namespace
}  // namespace lockstep::testing
