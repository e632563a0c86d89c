// SPDX-License-Identifier: BSD-3-Clause
// SyncBatchNorm with ranks as threads, against LibTorch's batch norm on the global batch.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <torch/torch.h>

#include <optional>
#include <sstream>

#include "parallel/batch_norm/batch_statistics.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using nn::SyncBatchNorm;
using torch::nn::BatchNormOptions;

class SyncBatchNorms : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, SyncBatchNorms, ::testing::Values(1, 2, 3));

/// Values by formula, with another mean and spread in each channel.
torch::Tensor make_values(torch::IntArrayRef sizes, double phase = 0) {
  const auto count = c10::multiply_integers(sizes);
  const auto waves = torch::sin(torch::arange(count, torch::kDouble) * 0.37 + phase).view(sizes);
  std::vector<std::int64_t> per_channel(sizes.size(), 1);
  per_channel[1] = sizes[1];
  const auto channels = torch::arange(sizes[1], torch::kDouble).view(per_channel);
  return waves * (channels + 1) + channels * 2 - 1;
}

template <typename Module>
void fill_affine(Module& module) {
  const torch::NoGradGuard no_grad;
  if (!module->weight.defined()) return;
  const auto channels = torch::arange(module->weight.size(0), torch::kDouble);
  module->weight.copy_(channels * 0.5 + 0.7);
  module->bias.copy_(channels * -0.3 + 0.1);
}

/// One case: what goes in, and how it is spread over the ranks.
struct Case {
  std::vector<std::int64_t> sizes;
  BatchNormOptions options = BatchNormOptions(sizes[1]);
  torch::ScalarType dtype = torch::kFloat;
  torch::ScalarType parameter_dtype = torch::kFloat;
  torch::MemoryFormat format = torch::MemoryFormat::Contiguous;
  int rank_without_samples = -1;  // the others have unequal shares then
  int steps = 2;
  double mean_gradient = 0.2;
  double tolerance = 1e-5;  // relative and absolute: float sums in another order
};

struct Outcome {
  std::vector<torch::Tensor> outputs, input_gradients;  // of each step
  torch::Tensor weight_gradient, bias_gradient;         // of the last
  torch::Tensor running_mean, running_var, batches;
};

torch::Tensor gradient_of(const torch::Tensor& parameter) {
  return parameter.defined() ? parameter.grad() : torch::Tensor();
}

torch::Tensor joined_input(const Case& test, int step) {
  auto input = make_values(test.sizes, step).to(test.dtype);
  return input.contiguous(test.format);
}

torch::Tensor joined_output_gradient(const Case& test, int step) {
  const auto count = c10::multiply_integers(test.sizes);
  const auto values =
      torch::cos(torch::arange(count, torch::kDouble) * 0.71 + step) + test.mean_gradient;
  return values.view(test.sizes).to(test.dtype).contiguous(test.format);
}

/// Trains on rows [begin, end) of the global batch.
template <typename Module>
Outcome train_on(Module& module, const Case& test, std::int64_t begin, std::int64_t end) {
  Outcome outcome;
  for (int step = 0; step < test.steps; ++step) {
    module->zero_grad();
    auto input = joined_input(test, step).slice(0, begin, end).detach().requires_grad_(true);
    const auto output = module->forward(input);
    EXPECT_EQ(output.scalar_type(), test.dtype);
    EXPECT_EQ(output.strides(), input.strides());
    output.backward(joined_output_gradient(test, step).slice(0, begin, end));
    EXPECT_EQ(input.grad().strides(), input.strides());
    outcome.outputs.push_back(output.detach());
    outcome.input_gradients.push_back(input.grad());
  }
  outcome.weight_gradient = gradient_of(module->weight);
  outcome.bias_gradient = gradient_of(module->bias);
  outcome.running_mean = module->running_mean;
  outcome.running_var = module->running_var;
  outcome.batches = module->num_batches_tracked;
  return outcome;
}

std::vector<std::int64_t> bounds(const Case& test, int ranks) {
  const bool is_uneven = test.rank_without_samples >= 0;
  std::vector<std::int64_t> parts_before{0};
  for (int rank = 0; rank < ranks; ++rank) {
    const int parts = !is_uneven ? 1 : rank == test.rank_without_samples ? 0 : rank + 1;
    parts_before.push_back(parts_before.back() + parts);
  }
  std::vector<std::int64_t> result;
  for (const auto parts : parts_before) {
    result.push_back(test.sizes[0] * parts / parts_before.back());
  }
  return result;
}

void expect_close(const torch::Tensor& actual, const torch::Tensor& expected, double tolerance,
                  const char* what) {
  ASSERT_EQ(actual.defined(), expected.defined()) << what;
  if (!expected.defined()) return;
  EXPECT_TRUE(
      torch::allclose(actual.to(torch::kDouble), expected.to(torch::kDouble), tolerance, tolerance))
      << what << "\n"
      << (actual.to(torch::kDouble) - expected.to(torch::kDouble)).abs().max();
}

template <typename Plain>
void expect_as_joined_batch(int ranks, const Case& test) {
  // The oracle computes in double, so that only the ranks' rounding counts.
  Case exact = test;
  Plain plain(test.options);
  fill_affine(plain);
  plain->to(torch::kDouble);
  Outcome expected;
  {
    exact.dtype = torch::kDouble;
    for (int step = 0; step < test.steps; ++step) {
      plain->zero_grad();
      auto input = joined_input(test, step).to(torch::kDouble).requires_grad_(true);
      const auto output = plain->forward(input);
      output.backward(joined_output_gradient(test, step).to(torch::kDouble));
      expected.outputs.push_back(output.detach());
      expected.input_gradients.push_back(input.grad());
    }
  }
  std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
  const auto rows = bounds(test, ranks);
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(test.options, group);
    fill_affine(module);
    module->to(test.parameter_dtype);
    const auto rank = static_cast<std::size_t>(group->rank());
    outcomes[rank] = train_on(module, test, rows[rank], rows[rank + 1]);
    group->close();
  });

  for (int step = 0; step < test.steps; ++step) {
    std::vector<torch::Tensor> outputs, gradients;
    for (const Outcome& outcome : outcomes) {
      outputs.push_back(outcome.outputs[static_cast<std::size_t>(step)]);
      gradients.push_back(outcome.input_gradients[static_cast<std::size_t>(step)]);
    }
    const auto at = static_cast<std::size_t>(step);
    expect_close(torch::cat(outputs), expected.outputs[at], test.tolerance, "output");
    expect_close(torch::cat(gradients), expected.input_gradients[at], test.tolerance, "gradient");
  }
  torch::Tensor weight_gradient = outcomes[0].weight_gradient;
  torch::Tensor bias_gradient = outcomes[0].bias_gradient;
  for (std::size_t rank = 1; rank < outcomes.size(); ++rank) {
    if (!weight_gradient.defined()) break;
    weight_gradient = weight_gradient + outcomes[rank].weight_gradient;
    bias_gradient = bias_gradient + outcomes[rank].bias_gradient;
  }
  // The gradient of the global batch's sum is the sum over ranks.
  expect_close(weight_gradient, gradient_of(plain->weight), 20 * test.tolerance, "weight");
  expect_close(bias_gradient, gradient_of(plain->bias), 20 * test.tolerance, "bias");
  for (const Outcome& outcome : outcomes) {
    expect_close(outcome.running_mean, plain->running_mean, test.tolerance, "running mean");
    expect_close(outcome.running_var, plain->running_var, test.tolerance, "running variance");
    expect_close(outcome.batches, plain->num_batches_tracked, 0, "batches");
    if (outcome.running_var.defined()) {
      EXPECT_TRUE(torch::equal(outcome.running_mean, outcomes[0].running_mean));
      EXPECT_TRUE(torch::equal(outcome.running_var, outcomes[0].running_var));
    }
  }
}

TEST_P(SyncBatchNorms, EqualBatchNormOfTheGlobalBatchInAllDimensions) {
  expect_as_joined_batch<torch::nn::BatchNorm1d>(GetParam(), {.sizes = {12, 5}});
  expect_as_joined_batch<torch::nn::BatchNorm1d>(GetParam(), {.sizes = {6, 3, 7}});
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), {.sizes = {6, 5, 4, 3}});
  expect_as_joined_batch<torch::nn::BatchNorm3d>(GetParam(), {.sizes = {6, 4, 3, 2, 5}});
}

TEST_P(SyncBatchNorms, EqualItForUnequalSharesAndARankWithoutSamples) {
  for (int rank = 0; rank < GetParam() && GetParam() > 1; ++rank) {
    Case test{.sizes = {12, 4, 3, 5}};
    test.rank_without_samples = rank;
    expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
    test.sizes = {12, 4};
    expect_as_joined_batch<torch::nn::BatchNorm1d>(GetParam(), test);
  }
}

TEST_P(SyncBatchNorms, EqualItInOtherDtypes) {
  Case test{.sizes = {12, 4, 6, 5}};
  test.dtype = test.parameter_dtype = torch::kDouble;
  test.tolerance = 1e-12;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  // Outputs reach 15, where half has steps of 2^-7 and bfloat16 of 2^-4; relative, 2^-11 and 2^-8
  // are half of such a step.
  test.dtype = torch::kHalf;
  test.parameter_dtype = torch::kFloat;
  test.tolerance = 1e-3;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  test.dtype = torch::kBFloat16;
  test.tolerance = 8e-3;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  if (GetParam() > 1) test.rank_without_samples = 0;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
}

TEST_P(SyncBatchNorms, AccumulateInFloatWhereParametersAre16BitToo) {
  // The sum of the gradients, 118 000, overflows in half; in bfloat16 it would be off by up to 256.
  Case test{.sizes = {12, 2, 64, 128}};
  test.mean_gradient = 1.2;
  test.steps = 1;
  test.options.affine(false);
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    test.dtype = test.parameter_dtype = dtype;
    test.tolerance = dtype == torch::kHalf ? 1e-3 : 8e-3;
    expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  }
}

TEST_P(SyncBatchNorms, EqualItChannelsLastAndKeepTheFormat) {
  Case test{.sizes = {6, 5, 4, 3}};
  test.format = torch::MemoryFormat::ChannelsLast;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  test.dtype = torch::kBFloat16;
  test.tolerance = 8e-3;
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  Case volumes{.sizes = {6, 4, 3, 2, 5}};
  volumes.format = torch::MemoryFormat::ChannelsLast3d;
  expect_as_joined_batch<torch::nn::BatchNorm3d>(GetParam(), volumes);
}

TEST_P(SyncBatchNorms, EqualItWithEveryOption) {
  Case test{.sizes = {6, 5, 4, 3}};
  test.steps = 3;
  test.options.momentum(std::nullopt);
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  test.options.momentum(0.3).eps(0.5).affine(false);
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
  test.options.track_running_stats(false);
  expect_as_joined_batch<torch::nn::BatchNorm2d>(GetParam(), test);
}

TEST_P(SyncBatchNorms, StayExactWhereTheMeanIsLargeAgainstTheSpread) {
  // The naive "mean of squares minus square of mean" has no digit left here.
  Case test{.sizes = {12, 3, 4, 4}};
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto joined = make_values(test.sizes) + 3000;
    const auto rows = bounds(test, group->size());
    const auto rank = static_cast<std::size_t>(group->rank());
    const auto own = joined.slice(0, rows[rank], rows[rank + 1]).to(torch::kFloat);
    const auto statistics = join_statistics(own, *group);
    const auto [variance, mean] = torch::var_mean(joined, {0, 2, 3}, /*unbiased=*/false);
    expect_close(statistics.mean, mean, 1e-6, "mean");
    // An input near 3000 is rounded to 1.2e-4.
    expect_close(statistics.variance, variance, 1e-4, "variance");
    EXPECT_EQ(statistics.counts.sum().item<std::int64_t>(), 12 * 4 * 4);
    group->close();
  });
}

TEST(SyncBatchNorm, CombinesOnDevicesAsOnTheCpu) {
  // Means, sums of squared deviations, count; the first and the third rank have no sample.
  const auto rows = torch::tensor({{0.0, 0.0, 0.0, 0.0, 0.0},
                                   {1.0, -2.0, 3.0, 0.5, 4.0},
                                   {0.0, 0.0, 0.0, 0.0, 0.0},
                                   {5.0, 7.0, 2.0, 8.0, 2.0}},
                                  torch::kDouble);
  const auto on_cpu = combine_in_order(rows);
  const auto on_device = combine_on_device(rows);
  expect_close(on_cpu.mean, torch::tensor({14.0 / 6, 1.0}, torch::kDouble), 1e-15, "mean");
  // Inside the batches, and between them: 4 * (4/3)^2 + 2 * (8/3)^2 and 4 * 3^2 + 2 * 6^2.
  expect_close(on_cpu.variance,
               torch::tensor({(5 + 64.0 / 3) / 6, (8.5 + 108) / 6}, torch::kDouble), 1e-15,
               "variance");
  expect_close(on_device.mean, on_cpu.mean, 1e-15, "mean on a device");
  expect_close(on_device.variance, on_cpu.variance, 1e-15, "variance on a device");
}

TEST_P(SyncBatchNorms, InsideDataParallelGiveTheGradientsOfTheGlobalBatch) {
  const auto make_net = [](auto norm) {
    torch::nn::Sequential net(torch::nn::Conv2d(2, 4, 3), norm, torch::nn::ReLU(),
                              torch::nn::Conv2d(4, 2, 3));
    const torch::NoGradGuard no_grad;
    double phase = 0;
    for (auto& parameter : net->parameters()) {
      parameter.copy_(
          torch::sin(torch::arange(parameter.numel()) * 0.7 + phase++).view(parameter.sizes()) *
          0.4);
    }
    return net;
  };
  const auto joined = make_values({12, 2, 7, 7}).to(torch::kFloat);
  auto reference = make_net(torch::nn::BatchNorm2d(4));
  reference->forward(joined).pow(2).mean().backward();
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<torch::nn::Sequential> model(make_net(SyncBatchNorm(4, group)), group);
    const auto samples = 12 / group->size();
    const auto own = joined.narrow(0, group->rank() * samples, samples);
    model->forward(own).pow(2).mean().backward();
    const auto expected = reference->named_parameters();
    for (const auto& item : model->named_parameters()) {
      expect_close(item.value().grad(), expected[item.key()].grad(), 1e-5, item.key().c_str());
    }
    group->close();
  });
}

TEST_P(SyncBatchNorms, MakeNoCallInEvaluation) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::BatchNorm2d plain(3);
    SyncBatchNorm module(3, group);
    SyncBatchNorm by_batch(BatchNormOptions(3).track_running_stats(false), group);
    const auto input = make_values({4, 3, 2, 2}).to(torch::kFloat);
    if (group->rank() == 0) {
      for (auto* statistics : {&plain->running_mean, &module->running_mean}) {
        (*statistics).copy_(torch::tensor({1.0, 2.0, 3.0}));
      }
      plain->eval();
      module->eval();
      by_batch->eval();
      EXPECT_TRUE(torch::equal(module(input), plain(input)));
      EXPECT_TRUE(torch::allclose(by_batch(input).mean(), torch::tensor(0.0F), 0, 1e-6));
      EXPECT_EQ(module->num_batches_tracked.item<std::int64_t>(), 0);
    }
    group->close();
  });
}

TEST(SyncBatchNorm, IsLibTorchsBitForBitInAWorldOfOne) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::BatchNorm2d plain(3);
    SyncBatchNorm module(3, group);
    auto first = make_values({4, 3, 2, 2}).to(torch::kFloat).requires_grad_(true);
    auto second = first.detach().clone().requires_grad_(true);
    const auto expected = plain(first);
    const auto actual = module(second);
    EXPECT_TRUE(torch::equal(actual, expected));
    expected.pow(3).sum().backward();
    actual.pow(3).sum().backward();
    EXPECT_TRUE(torch::equal(second.grad(), first.grad()));
    EXPECT_TRUE(torch::equal(module->running_var, plain->running_var));
    group->close();
  });
}

TEST_P(SyncBatchNorms, NeedNoCallInBackwardWhereTheInputNeedsNoGradient) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(3, group);
    const auto output = module(make_values({4, 3, 2, 2}, group->rank()).to(torch::kFloat));
    if (group->rank() == 0) output.pow(2).sum().backward();  // alone
    group->close();
  });
}

TEST_P(SyncBatchNorms, ReadWhatLibTorchsSavedAndTheOtherWayRound) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::BatchNorm1d plain(4);
    plain(make_values({6, 4}).to(torch::kFloat));
    fill_affine(plain);
    SyncBatchNorm module(4, group);
    std::stringstream stream;
    torch::save(plain, stream);
    torch::load(module, stream);
    EXPECT_EQ(module->named_parameters().keys(), plain->named_parameters().keys());
    EXPECT_EQ(module->named_buffers().keys(), plain->named_buffers().keys());
    EXPECT_TRUE(torch::equal(module->running_var, plain->running_var));
    EXPECT_TRUE(torch::equal(module->weight, plain->weight));
    EXPECT_EQ(module->num_batches_tracked.item<std::int64_t>(), 1);
    module->running_mean.fill_(7);
    std::stringstream back;
    torch::save(module, back);
    torch::load(plain, back);
    EXPECT_TRUE(torch::equal(module->running_mean, plain->running_mean));
    group->close();
  });
}

TEST_P(SyncBatchNorms, AreClonedWithTheirGroup) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(4, group);
    fill_affine(module);
    const auto copy = std::dynamic_pointer_cast<nn::SyncBatchNormImpl>(module->clone());
    EXPECT_EQ(copy->process_group(), group);
    EXPECT_TRUE(torch::equal(copy->weight, module->weight));
    copy->forward(make_values({4, 4}).to(torch::kFloat));
    EXPECT_EQ(copy->num_batches_tracked.item<std::int64_t>(), 1);
    EXPECT_EQ(module->num_batches_tracked.item<std::int64_t>(), 0);
    std::ostringstream text;
    text << *module;
    EXPECT_NE(text.str().find("lockstep::nn::SyncBatchNorm(4, eps=1e-05, momentum=0.1"),
              std::string::npos)
        << text.str();
    group->close();
  });
}

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

#define EXPECT_ERROR(call, part) \
  EXPECT_NE(error_of([&] { call; }).find(part), std::string::npos) << error_of([&] { call; })

TEST_P(SyncBatchNorms, SayWhatIsWrongWithAnInput) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(3, group);
    EXPECT_ERROR(module(torch::ones({3})), "2 to 5 dimensions");
    EXPECT_ERROR(module(torch::ones({1, 3, 1, 1, 1, 1})), "2 to 5 dimensions");
    EXPECT_ERROR(module(torch::ones({2, 4})), "expected 3 channels in dimension 1, got [2, 4]");
    EXPECT_ERROR(module(torch::Tensor()), "undefined");
    EXPECT_EQ(module->num_batches_tracked.item<std::int64_t>(), 0);
    EXPECT_ERROR(SyncBatchNorm(3, nullptr), "group is null");
    EXPECT_ERROR(SyncBatchNorm(0), "num_features is 0");
    EXPECT_ERROR(SyncBatchNorm(3)->forward(torch::ones({2, 3})), "training needs a process group");
    group->close();
    EXPECT_ERROR(module(torch::ones({2, 3})), "group is closed");
  });
}

TEST_P(SyncBatchNorms, RefuseASingleValueOverAllRanksOnly) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(3, group);
    // One sample on rank 0, none elsewhere.
    const auto single = torch::ones({group->rank() == 0 ? 1 : 0, 3});
    EXPECT_ERROR(module(single), "more than 1 value a channel over all ranks");
    EXPECT_EQ(module->num_batches_tracked.item<std::int64_t>(), 0);
    if (group->size() > 1) {
      const auto one_each = torch::full({1, 3}, static_cast<float>(group->rank()));
      EXPECT_TRUE(module(one_each).isfinite().all().item<bool>());
    }
    group->close();
  });
}

TEST_P(SyncBatchNorms, LeaveStatisticsAloneWhereNobodyHasASample) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(3, group);
    auto input = torch::ones({0, 3, 2, 2}).requires_grad_(true);
    const auto output = module(input);
    output.sum().backward();
    EXPECT_EQ(output.sizes(), input.sizes());
    EXPECT_TRUE(torch::equal(module->running_mean, torch::zeros({3})));
    EXPECT_TRUE(torch::equal(module->running_var, torch::ones({3})));
    EXPECT_TRUE(torch::equal(module->weight.grad(), torch::zeros({3})));
    group->close();
  });
}

TEST_P(SyncBatchNorms, CannotBeDifferentiatedTwiceOverRanks) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    SyncBatchNorm module(3, group);
    auto input = make_values({4, 3}, group->rank()).to(torch::kFloat).requires_grad_(true);
    const auto output = module(input).pow(3).sum();
    // Keeping a graph of the first derivative is no error yet.
    const auto gradient = torch::autograd::grad({output}, {input}, {}, true, true)[0];
    EXPECT_ERROR(gradient.sum().backward({}, /*keep_graph=*/true), "differentiated twice");
    group->close();
  });
}

TEST_P(SyncBatchNorms, NameTheCallInWhichRanksDiffer) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto channels = 3 + group->rank();
    SyncBatchNorm module(channels, group);
    module(torch::ones({2, channels}));
  });
  for (const auto& error : errors) {
    ASSERT_NE(error, nullptr);
    try {
      std::rethrow_exception(error);
    } catch (const MismatchError& caught) {
      EXPECT_NE(std::string(caught.what()).find("SyncBatchNorm forward"), std::string::npos)
          << caught.what();
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
