// SPDX-License-Identifier: BSD-3-Clause
// Models of all kinds, and what becomes of their outputs.
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ensemble_test_support.h"
#include "support/expected_errors.h"

namespace lockstep::inference {
namespace {

using lockstep::testing::expect_refusal;
using testing::happens;
using testing::numbers;
using testing::SmallNet;
using testing::SmallNetImpl;
using testing::times;
using namespace std::chrono_literals;

TEST(Ensemble, AFactoryMayReturnAnyModelByValueOrPointer) {
  const auto output_of = [](Member model) {
    Ensemble ensemble({std::move(model)});
    return ensemble.submit(torch::ones({2, 1, 8, 8})).get().output;
  };
  SmallNet net(3);
  net->eval();
  const torch::NoGradGuard guard;
  const auto expected = net->forward(torch::ones({2, 1, 8, 8}));
  EXPECT_TRUE(torch::equal(output_of(member("holder", [] { return SmallNet(3); })), expected));
  EXPECT_TRUE(torch::equal(
      output_of(member("shared", [] { return std::make_shared<SmallNetImpl>(3); })), expected));
  EXPECT_TRUE(torch::equal(
      output_of(member("unique", [] { return std::make_unique<SmallNetImpl>(3); })), expected));
  EXPECT_TRUE(torch::equal(
      output_of(member("sequential", [] { return torch::nn::Sequential(SmallNet(3)); })),
      expected));
  EXPECT_TRUE(torch::equal(
      output_of(member("any", [] { return torch::nn::AnyModule(SmallNet(3)); })), expected));
  EXPECT_TRUE(torch::equal(output_of(member("function",
                                            [] {
                                              return std::function<torch::Tensor(torch::Tensor)>(
                                                  [](torch::Tensor x) { return x + 1; });
                                            })),
                           torch::full({2, 1, 8, 8}, 2.0F)));
  EXPECT_TRUE(torch::equal(
      output_of(member("pointer", [] { return +[](const torch::Tensor& x) { return x + 2; }; })),
      torch::full({2, 1, 8, 8}, 3.0F)));
}

TEST(Ensemble, CombinationsTakeMembersInTheirOrder) {
  const std::vector<MemberOutput> outputs{
      {0, "a", torch::tensor({{1.0F, 3.0F, 0.0F}, {0.0F, 1.0F, 5.0F}})},
      {1, "b", torch::tensor({{2.0F, 1.0F, 0.0F}, {0.0F, 4.0F, 1.0F}})},
      {3, "d", torch::tensor({{0.0F, 2.0F, 9.0F}, {7.0F, 1.0F, 2.0F}})}};
  EXPECT_TRUE(
      torch::equal(mean()(outputs), torch::tensor({{3.0F, 6.0F, 9.0F}, {7.0F, 6.0F, 8.0F}}) / 3));
  EXPECT_TRUE(torch::equal(
      mean_of_probabilities()(outputs),
      (outputs[0].output.softmax(1) + outputs[1].output.softmax(1) + outputs[2].output.softmax(1)) /
          3));
  EXPECT_TRUE(torch::equal(mean_of_probabilities(0)({outputs[0]}), outputs[0].output.softmax(0)));
  // Each class has one vote: the lowest number wins.
  EXPECT_TRUE(torch::equal(vote()(outputs), torch::tensor({0, 0}, torch::kLong)));
  EXPECT_TRUE(torch::equal(vote()({outputs[0], outputs[2], outputs[2]}),
                           torch::tensor({2, 0}, torch::kLong)));
  EXPECT_TRUE(torch::equal(vote(0)({outputs[0]}), outputs[0].output.argmax(0)));
  // Of the weights of those that answered: 1, 2 and 5.
  EXPECT_TRUE(torch::equal(
      weighted({1, 2, 100, 5})(outputs),
      outputs[0].output * 0.125 + outputs[1].output * 0.25 + outputs[2].output * 0.625));
  EXPECT_TRUE(
      torch::equal(mean()({{0, "a", torch::tensor({1, 2})}, {1, "b", torch::tensor({2, 2})}}),
                   torch::tensor({1.5F, 2.0F})));
  expect_refusal(
      [&] {
        static_cast<void>(mean()({{0, "a", torch::ones(2)}, {1, "b", torch::ones(3)}}));
      },
      "members a and b have different shapes, [2] and [3]");
  const std::vector<MemberOutput> mixed{{0, "a", torch::ones(2)},
                                        {1, "b", torch::ones(2, torch::kDouble)}};
  for (const auto& combination : {mean(), mean_of_probabilities(0), weighted({1, 1})}) {
    expect_refusal([&] { static_cast<void>(combination(mixed)); },
                   "members a and b have different dtypes, Float and Double");
  }
  EXPECT_EQ(vote(0)(mixed).item<std::int64_t>(), 0);
  expect_refusal([] { static_cast<void>(weighted({1, -1})); }, "-1 is no weight");
  expect_refusal([] { static_cast<void>(weighted({0, 0})); }, "one weight at least");
  expect_refusal([&] { static_cast<void>(weighted({1, 1})(outputs)); }, "none for member d");
  expect_refusal([&] { static_cast<void>(weighted({0, 1})({outputs[0]})); }, "have the weight 0");
}

TEST(Ensemble, AnOwnCombinationMayKeepWhatItGets) {
  std::vector<torch::Tensor> kept;
  Ensemble ensemble(
      {times("a", 1), times("b", 2)},
      EnsembleOptions().queue(1).combine([&](const std::vector<MemberOutput>& outputs) {
        EXPECT_EQ(outputs[1].name, "b");
        kept.push_back(outputs[1].output);
        return outputs[0].output;
      }));
  std::vector<torch::Tensor> answers;
  for (int request = 0; request < 5; ++request) {
    answers.push_back(ensemble.submit(numbers(static_cast<float>(request))).get().output);
  }
  for (int request = 0; request < 5; ++request) {
    const auto index = static_cast<std::size_t>(request);
    EXPECT_TRUE(torch::equal(answers[index], numbers(static_cast<float>(request))));
    EXPECT_TRUE(torch::equal(kept[index], numbers(static_cast<float>(request)) * 2));
  }
  Ensemble throwing({times("a", 1)}, EnsembleOptions().combine(
                                         [](const std::vector<torch::Tensor>&) -> torch::Tensor {
                                           throw std::logic_error("cannot combine");
                                         }));
  auto pending = throwing.submit(numbers(0));
  EXPECT_THROW(static_cast<void>(pending.get()), std::logic_error);
  EXPECT_THROW(static_cast<void>(pending.get()), std::logic_error);
  EXPECT_EQ(throwing.statistics().in_flight, 0U);
}

TEST(Ensemble, AnswersHaveTheOutputsOfMembersIfAskedFor) {
  Ensemble ensemble({times("a", 1), times("b", 3)}, EnsembleOptions().member_outputs(true));
  const auto answer = ensemble.submit(numbers(1)).get();
  ASSERT_EQ(answer.members.size(), 2U);
  EXPECT_EQ(answer.members[1].name, "b");
  EXPECT_TRUE(torch::equal(answer.members[1].output, numbers(1) * 3));
  EXPECT_TRUE(torch::equal(answer.output, numbers(1) * 2));
}

TEST(Ensemble, AMemberMayUseSeveralThreadsAfterTheProgramHas) {
  torch::mm(torch::ones({300, 300}), torch::ones({300, 300}));  // starts LibTorch's threads here
  const auto large =
      member("two", [] {
        return [](torch::Tensor x) {
          const auto product = torch::mm(x, x).sum();
          return torch::stack({product, torch::tensor(static_cast<float>(at::get_num_threads()))});
        };
      }).threads(2);
  Ensemble ensemble(
      {large, times("one", 1)},
      EnsembleOptions().quorum(1).member_outputs(true).combine(
          [](const std::vector<MemberOutput>& outputs) { return outputs[0].output; }));
  const auto answer = ensemble.submit(torch::ones({300, 300})).get();
  EXPECT_TRUE(answer.missing.empty());
  EXPECT_EQ(answer.output[0].item<float>(), 300.0F * 300 * 300);
  EXPECT_EQ(answer.output[1].item<float>(), 2);
}

TEST(Ensemble, MembersThatAreThreadsHaveNumbersOfThreadsOfTheirOwn) {
  const auto asking = [](const std::string& name, std::int64_t threads) {
    return member(name,
                  [] {
                    return [](torch::Tensor) {
                      return torch::tensor(static_cast<float>(at::get_num_threads()));
                    };
                  })
        .threads(threads);
  };
  Ensemble ensemble({asking("a", 1), asking("b", 3), asking("c", 2)},
                    EnsembleOptions()
                        .kind(WorkerKind::Thread)
                        .combine([](const std::vector<torch::Tensor>& outputs) {
                          return torch::stack(outputs);
                        }));
  EXPECT_TRUE(
      torch::equal(ensemble.submit(numbers(1)).get().output, torch::tensor({1.0F, 3.0F, 2.0F})));
}

TEST(Ensemble, AnOwnCombinationRunsInGetAloneAndMaySubmit) {
  std::atomic<int> calls{0};
  std::unique_ptr<Ensemble> ensemble;
  // A member counts an answer a moment before the request is over: `submit` waits for that.
  auto options = EnsembleOptions().queue(1).when_full(WhenFull::Wait);
  options.combine([&](const std::vector<torch::Tensor>& outputs) {
    ++calls;
    if (outputs[0].max().item<float>() > 10) return outputs[0];
    return ensemble->submit(outputs[0]).get().output;
  });
  ensemble = std::make_unique<Ensemble>(std::vector<Member>{times("a", 2)}, options);
  auto first = ensemble->submit(numbers(1));
  ASSERT_TRUE(happens([&] { return first.ready(); }));
  auto second = ensemble->submit(numbers(2));
  ASSERT_TRUE(happens([&] { return ensemble->statistics().members[0].answered == 2; }));
  auto third = ensemble->submit(numbers(20));  // settles the second, whose place it needs
  EXPECT_EQ(calls, 0);
  EXPECT_TRUE(torch::equal(third.get().output, numbers(20) * 2));
  EXPECT_TRUE(torch::equal(second.get().output, numbers(2) * 4));
  EXPECT_TRUE(torch::equal(first.get().output, numbers(1) * 4));
  EXPECT_EQ(calls, 5);
  EXPECT_TRUE(torch::equal(first.get().output, numbers(1) * 4));
  EXPECT_EQ(calls, 5);
}

}  // namespace
}  // namespace lockstep::inference
