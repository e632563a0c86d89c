// SPDX-License-Identifier: BSD-3-Clause
// Trainings with each communication hook, against the same one without, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <functional>
#include <string>
#include <tuple>

#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;

/// Its layers are registered in another order than used, so that the buckets are rebuilt after the
/// first step.
struct ScrambledNetImpl : torch::nn::Module {
  ScrambledNetImpl() {
    second = register_module("second", torch::nn::Linear(24, 16));
    third = register_module("third", torch::nn::Linear(16, 4));
    first = register_module("first", torch::nn::Linear(10, 24));
    const torch::NoGradGuard no_grad;
    int phase = 0;
    for (auto& parameter : parameters()) {
      parameter.copy_(wave(parameter.sizes(), 0, phase++) * 0.3);
    }
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::tanh(first(x));
    return third(torch::tanh(second(x)));
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};
TORCH_MODULE(ScrambledNet);

torch::Tensor input_of(int rank, int step) {
  return wave({8, 10}, rank, step).to(torch::kFloat);
}

torch::Tensor target_of(const torch::Tensor& input) {
  const auto teacher = wave({10, 4}, 0, 77).to(torch::kFloat);
  return torch::sin(torch::matmul(input, teacher));
}

struct NamedHook {
  std::string name;
  std::function<CommunicationHook()> make;
  double factor;  // of the loss without a hook, that the loss with it stays below
};

hooks::PowerSgdOptions power_options() {
  return hooks::PowerSgdOptions().start_iteration(0).matrix_approximation_rank(2);
}

std::vector<NamedHook> all_hooks() {
  return {
      {"fp16_compress", hooks::fp16_compress, 1.01},
      {"bf16_compress", hooks::bf16_compress, 1.01},
      {"PowerSgd", [] { return hooks::PowerSgd(power_options()); }, 1.1},
      {"BatchedPowerSgd",
       [] { return hooks::BatchedPowerSgd(power_options().matrix_approximation_rank(4)); }, 1.1},
      {"Int8ErrorFeedback", [] { return hooks::Int8ErrorFeedback(); }, 1.01},
      {"CastPowerSgd",
       [] { return hooks::compress(at::kBFloat16, hooks::PowerSgd(power_options())); }, 1.1},
      {"CastInt8", [] { return hooks::compress(at::kHalf, hooks::Int8ErrorFeedback()); }, 1.01},
  };
}

class HookTraining : public ::testing::TestWithParam<std::tuple<int, std::size_t>> {
 protected:
  [[nodiscard]] static int world_size() { return std::get<0>(GetParam()); }
  [[nodiscard]] static NamedHook hook() { return all_hooks()[std::get<1>(GetParam())]; }
};
INSTANTIATE_TEST_SUITE_P(AllHooks, HookTraining,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::Range(std::size_t{0}, all_hooks().size())),
                         [](const auto& instance) {
                           return all_hooks()[std::get<1>(instance.param)].name + "_" +
                                  std::to_string(std::get<0>(instance.param));
                         });

struct Outcome {
  double loss = 0;  // of the last step, mean over ranks
  double first_loss = 0;
  torch::Tensor parameters;
  std::uint64_t plan = 0;
  std::size_t buckets = 0;
};

torch::Tensor flat_parameters_of(const ScrambledNet& net) {
  std::vector<torch::Tensor> parts;
  for (const auto& parameter : net->parameters()) parts.push_back(parameter.detach().flatten());
  return torch::cat(parts);
}

Outcome train_with(const Group& group, const CommunicationHook& hook, int steps) {
  ScrambledNet net;
  DistributedDataParallel<ScrambledNet> model(
      net, group, Options().bucket_cap_bytes(1600).first_bucket_cap_bytes(400));
  if (hook) model->register_communication_hook(hook);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  Outcome outcome;
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    const auto input = input_of(group->rank(), step % 10);
    const auto loss = torch::mse_loss(model->forward(input), target_of(input));
    loss.backward();
    optimizer.step();
    outcome.loss = mean_of(*group, loss.detach().reshape({1})).item<double>();
    if (step == 0) outcome.first_loss = outcome.loss;
  }
  outcome.parameters = flat_parameters_of(net);
  outcome.plan = model->statistics().plan;
  outcome.buckets = model->statistics().buckets.size();
  return outcome;
}

TEST_P(HookTraining, ComesNearTheLossOfTrainingWithoutIt) {
  run_ranks_or_throw(world_size(), [](const Group& group) {
    const int steps = 300;
    const Outcome without = train_with(group, nullptr, steps);
    const Outcome with = train_with(group, hook().make(), steps);
    EXPECT_GE(with.plan, 2U);
    EXPECT_GE(with.buckets, 3U);
    EXPECT_LT(without.loss, without.first_loss / 5);
    EXPECT_LT(with.loss, without.loss * hook().factor);
    EXPECT_FALSE(torch::equal(with.parameters, without.parameters));
    expect_same_bits_on_all_ranks(*group, with.parameters);
    group->close();
  });
}

TEST_P(HookTraining, GoesOnWhileSomeRanksHaveNoData) {
  run_ranks_or_throw(world_size(), [](const Group& group) {
    ScrambledNet net;
    DistributedDataParallel<ScrambledNet> model(
        net, group, Options().bucket_cap_bytes(1600).first_bucket_cap_bytes(400));
    model->register_communication_hook(hook().make());
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.02));
    for (int epoch = 0; epoch < 3; ++epoch) {
      for (int step = 0; step < 2 + 2 * group->rank(); ++step) {
        optimizer.zero_grad();
        const auto input = input_of(group->rank(), step);
        torch::mse_loss(model->forward(input), target_of(input)).backward();
        optimizer.step();
      }
      const auto before = flat_parameters_of(net);
      model->join([&] {
        optimizer.step();
        optimizer.zero_grad();
      });
      expect_same_bits_on_all_ranks(*group, flat_parameters_of(net));
      EXPECT_EQ(torch::equal(before, flat_parameters_of(net)), group->rank() + 1 == group->size());
      EXPECT_TRUE(torch::isfinite(flat_parameters_of(net)).all().item<bool>());
    }
    group->close();
  });
}

TEST(HookTrainingWithPowerSgd, NeedsErrorFeedback) {
  run_ranks_or_throw(2, [](const Group& group) {
    const auto options = power_options().matrix_approximation_rank(1).warm_start(false);
    const Outcome with = train_with(group, hooks::PowerSgd(options), 300);
    const Outcome without = train_with(
        group, hooks::PowerSgd(hooks::PowerSgdOptions(options).use_error_feedback(false)), 300);
    EXPECT_LT(with.loss, without.loss);
    group->close();
  });
}

TEST(HookTrainingWithPostLocalSgd, ComesNearTheLossOfTrainingTogether) {
  run_ranks_or_throw(3, [](const Group& group) {
    const Outcome together = train_with(group, nullptr, 300);
    ScrambledNet net;
    DistributedDataParallel<ScrambledNet> model(net, group);
    model->register_communication_hook(
        hooks::PostLocalSgd(hooks::PostLocalSgdOptions().start_iteration(50)));
    hooks::PeriodicModelAverager averager(group, 4, 50);
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
    double last = 0;
    for (int step = 0; step < 300; ++step) {
      optimizer.zero_grad();
      const auto input = input_of(group->rank(), step % 10);
      const auto loss = torch::mse_loss(model->forward(input), target_of(input));
      loss.backward();
      optimizer.step();
      const bool has_averaged = averager.average_parameters(model->parameters());
      if (has_averaged || step < 50) {
        expect_same_bits_on_all_ranks(*group, flat_parameters_of(net));
      }
      last = mean_of(*group, loss.detach().reshape({1})).item<double>();
    }
    EXPECT_LT(last, together.loss * 1.5);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
