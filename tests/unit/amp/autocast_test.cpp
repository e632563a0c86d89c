// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <lockstep/amp/autocast.h>
#include <lockstep/core/logging.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using amp::autocast;
using torch::Tensor;

Tensor numbers_of(torch::IntArrayRef sizes, double phase) {
  return torch::sin(torch::arange(c10::multiply_integers(sizes), torch::kFloat) * 0.7 + phase)
      .view(sizes)
      .clone();  // LibTorch's cache takes no views
}

bool is_on() {
  return at::autocast::is_autocast_enabled(at::kCPU);
}

TEST(Autocast, ConvertsAsLibTorchDoesAndEndsWithTheGuard) {
  const auto a = numbers_of({4, 4}, 0);
  const auto b = numbers_of({4, 4}, 1);
  const bool cache_before = at::autocast::is_autocast_cache_enabled();
  {
    const autocast guard(torch::kCPU, torch::kBFloat16);
    EXPECT_TRUE(is_on());
    EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
    const auto product = torch::mm(a, b);
    EXPECT_EQ(product.scalar_type(), torch::kBFloat16);
    EXPECT_TRUE(torch::equal(product, torch::mm(a.to(torch::kBFloat16), b.to(torch::kBFloat16))));
    EXPECT_EQ(torch::mse_loss(product, a).scalar_type(), torch::kFloat);
    EXPECT_FALSE(std::async(std::launch::async, is_on).get());
  }
  EXPECT_FALSE(is_on());
  EXPECT_EQ(at::autocast::is_autocast_cache_enabled(), cache_before);
  EXPECT_EQ(torch::mm(a, b).scalar_type(), torch::kFloat);
}

TEST(Autocast, TakesTheDtypeThatIsSetWhereNoneIsGiven) {
  const auto a = numbers_of({2, 2}, 0);
  {
    const autocast guard(torch::kCPU);
    EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kBFloat16);
  }
  const autocast outer(torch::kCPU, torch::kHalf);
  const autocast inner(torch::kCPU);
  EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kHalf);
}

TEST(Autocast, Nests) {
  const auto a = numbers_of({2, 2}, 0);
  const autocast outer(torch::kCPU, torch::kBFloat16, true, /*cache_enabled=*/true);
  {
    const autocast without(torch::kCPU, std::nullopt, /*enabled=*/false);
    EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kFloat);
    {
      const autocast half(torch::kCPU, torch::kHalf);
      EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kHalf);
    }
    EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kFloat);
  }
  EXPECT_EQ(torch::mm(a, a).scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(at::autocast::is_autocast_cache_enabled());
}

TEST(Autocast, EndsWhenItsScopeIsLeftByAnException) {
  const auto fail = [] {
    const autocast guard(torch::kCPU, torch::kBFloat16, true, true);
    throw std::runtime_error("left");
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_FALSE(is_on());
  EXPECT_FALSE(at::hasThreadLocalCallbacks());
}

TEST(Autocast, RefusesOtherDtypesAndDevicesAndChangesNothing) {
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kInt}) {
    expect_refusal([&] { const autocast guard(torch::kCPU, dtype); },
                   "it must be BFloat16 or Half");
    const autocast disabled(torch::kCPU, dtype, /*enabled=*/false);
    EXPECT_FALSE(is_on());
  }
  expect_refusal([] { const autocast guard(torch::kMeta); }, "it must be kCPU or kCUDA");
  EXPECT_FALSE(is_on());
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), torch::kBFloat16);
}

TEST(Autocast, WarnsWhereThereIsNoGpu) {
  if (at::hasCUDA()) GTEST_SKIP() << "this machine has a GPU";
  std::string said;
  set_log_sink([&](logging::Level, std::string_view message) { said += message; });
  {
    const autocast guard(torch::kCUDA, torch::kHalf);
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCUDA));
  }
  set_log_sink(nullptr);
  EXPECT_NE(said.find("no CUDA device"), std::string::npos) << said;
}

/// How many conversions `call` makes.
template <class Call>
int conversions_in(const Call& call) {
  static thread_local int count = 0;
  count = 0;
  const auto handle =
      at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& function) {
                                   if (std::string_view(function.name()) == "aten::_to_copy")
                                     ++count;
                                   return std::unique_ptr<at::ObserverContext>();
                                 }).scopes({at::RecordScope::FUNCTION}));
  call();
  at::removeCallback(handle);
  return count;
}

TEST(Autocast, ConvertsAWeightOnceOnlyWithTheCache) {
  const auto weight = numbers_of({3, 3}, 0).requires_grad_();
  const auto data = numbers_of({3, 3}, 1);
  const auto use_twice = [&](bool has_cache) {
    const autocast guard(torch::kCPU, torch::kBFloat16, true, has_cache);
    return conversions_in([&] { torch::mm(torch::mm(data, weight), weight); });
  };
  EXPECT_EQ(use_twice(true), 2);
  EXPECT_EQ(use_twice(false), 3);
}

TEST(Autocast, DoesNotGiveWhatTheCacheHasInAnotherDtype) {
  const auto weight = numbers_of({3, 3}, 0).requires_grad_();
  const autocast outer(torch::kCPU, torch::kBFloat16, true, true);
  EXPECT_EQ(torch::mm(weight, weight).scalar_type(), torch::kBFloat16);
  {
    const autocast inner(torch::kCPU, torch::kHalf, true, true);
    EXPECT_EQ(torch::mm(weight, weight).scalar_type(), torch::kHalf);
  }
  EXPECT_EQ(torch::mm(weight, weight).scalar_type(), torch::kBFloat16);
}

/// Weights after some steps. `Scope`: what lives around the whole loop; `StepScope`: around each
/// step.
template <class Scope, class StepScope>
std::vector<Tensor> train(const Scope& make_scope, const StepScope& make_step_scope) {
  torch::nn::Linear net(3, 2);
  {
    const torch::NoGradGuard no_gradients;
    net->weight.copy_(numbers_of({2, 3}, 0));
    net->bias.copy_(numbers_of({2}, 1));
  }
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.5).momentum(0.9));
  [[maybe_unused]] const auto scope = make_scope();
  std::vector<Tensor> weights;
  for (int step = 0; step < 4; ++step) {
    [[maybe_unused]] const auto step_scope = make_step_scope();
    optimizer.zero_grad();
    net->forward(numbers_of({4, 3}, step)).to(torch::kFloat).square().mean().backward();
    optimizer.step();
    weights.push_back(net->weight.detach().clone());
  }
  return weights;
}

struct NoScope {};
NoScope nothing() {
  return {};
}

/// Autocast with its cache as LibTorch has it.
struct PlainAutocast {
  PlainAutocast() {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::increment_nesting();
  }
  ~PlainAutocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  PlainAutocast(const PlainAutocast&) = delete;
  PlainAutocast& operator=(const PlainAutocast&) = delete;
};

TEST(Autocast, AroundATrainingLoopUsesTheWeightsOfEachStep) {
  const auto with = [](bool has_cache) {
    return [=] { return autocast(torch::kCPU, torch::kBFloat16, true, has_cache); };
  };
  const auto expected = train(nothing, with(false));
  for (const bool has_cache : {false, true}) {
    const auto found = train(with(has_cache), nothing);
    for (std::size_t step = 0; step < expected.size(); ++step) {
      EXPECT_TRUE(torch::equal(found[step], expected[step])) << has_cache << ", step " << step;
    }
  }
  // This is no test of a test only: where LibTorch no longer keeps old weights, the guard need not
  // care.
  const auto stale = train([] { return PlainAutocast(); }, nothing);
  EXPECT_TRUE(torch::equal(stale[0], expected[0]));
  EXPECT_FALSE(torch::equal(stale[3], expected[3]));
}

TEST(Autocast, IsThereAgainWhenACheckpointedFunctionRunsAgain) {
  for (const bool has_cache : {false, true}) {
    const auto weight = numbers_of({4, 4}, 0).requires_grad_();
    const auto input = numbers_of({3, 4}, 1).requires_grad_();
    std::vector<bool> was_on;
    const auto function = [&](const Tensor& x) {
      was_on.push_back(is_on());
      return torch::mm(torch::mm(x, weight).relu(), weight);
    };
    const auto gradients_of = [&](const auto& forward) {
      Tensor loss;
      {
        const autocast guard(torch::kCPU, torch::kBFloat16, true, has_cache);
        loss = forward().square().mean();
      }
      return torch::autograd::grad({loss}, {input, weight});
    };
    const auto expected = gradients_of([&] { return function(input); });
    was_on.clear();
    const auto found = gradients_of([&] { return checkpoint(function, input); });
    EXPECT_EQ(was_on, (std::vector<bool>{true, true}));
    EXPECT_TRUE(torch::equal(found[0], expected[0]));
    EXPECT_TRUE(torch::allclose(found[1], expected[1], 2e-2, 2e-3));
    EXPECT_EQ(found[1].scalar_type(), torch::kFloat);
  }
}

class AutocastRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, AutocastRanks, ::testing::Values(1, 2, 3));

TEST_P(AutocastRanks, TrainsAModelOfSeveralRanks) {
  const int ranks = GetParam();
  const auto gradients_alone = [](torch::nn::Linear& net, int rank) {
    net->zero_grad();
    Tensor loss;
    {
      const autocast guard(torch::kCPU, torch::kBFloat16);
      loss = net->forward(numbers_of({4, 3}, rank)).square().mean();
    }
    loss.backward();
    return net->weight.grad().clone();
  };
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Linear net(3, 2);
    {
      const torch::NoGradGuard no_gradients;
      net->weight.copy_(numbers_of({2, 3}, 0));
      net->bias.copy_(numbers_of({2}, 1));
    }
    auto sum = torch::zeros({2, 3});
    for (int rank = 0; rank < ranks; ++rank) sum += gradients_alone(net, rank);
    net->zero_grad();
    DistributedDataParallel<torch::nn::Linear> model(net, group);
    Tensor loss;
    {
      const autocast guard(torch::kCPU, torch::kBFloat16);
      const auto output = model->forward(numbers_of({4, 3}, group->rank()));
      EXPECT_EQ(output.scalar_type(), torch::kBFloat16);
      loss = output.square().mean();
    }
    loss.backward();
    EXPECT_EQ(net->weight.grad().scalar_type(), torch::kFloat);
    EXPECT_TRUE(torch::allclose(net->weight.grad(), sum / ranks, 1e-6, 0));
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
