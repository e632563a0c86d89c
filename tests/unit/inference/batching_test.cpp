// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/inference/ensemble.h>
#include <torch/torch.h>

#include "ensemble_test_support.h"

namespace lockstep::inference {
namespace {

using testing::Gate;
using testing::numbers;
using testing::stopping;

// Requests that come while the member is at the gate are all there when it opens, so which batches
// it makes does not depend on time.
class Batching : public ::testing::Test {
 protected:
  void hold(Ensemble& ensemble) {
    held_ = std::make_unique<PendingAnswer>(ensemble.submit(stopping({1, 9})));
    ASSERT_TRUE(gate_.waits_for_somebody());
  }
  [[nodiscard]] Member gated() const {
    return member("a", [this] { return gate_.model(2); });
  }
  static std::vector<std::uint64_t> sizes_of(const Ensemble& ensemble, std::size_t most) {
    auto sizes = ensemble.statistics().members[0].batch_sizes;
    sizes.resize(most);
    return sizes;
  }

  Gate gate_;
  std::unique_ptr<PendingAnswer> held_;
};

TEST_F(Batching, RequestsOfOneShapeAreOneCallAndOthersAreNot) {
  Ensemble ensemble({gated()}, EnsembleOptions().max_batch(4));
  hold(ensemble);
  const auto wide = numbers(1, {1, 6});
  const std::vector<torch::Tensor> inputs{
      numbers(1),  wide,        numbers(2),  numbers(3).to(torch::kDouble),
      numbers(10), numbers(20), numbers(30), wide * 3};
  std::vector<PendingAnswer> pending;
  for (const auto& input : inputs) pending.push_back(ensemble.submit(input));
  gate_.open();
  for (std::size_t request = 0; request < inputs.size(); ++request) {
    const auto output = pending[request].get().output;
    EXPECT_EQ(output.scalar_type(), inputs[request].scalar_type());
    EXPECT_TRUE(torch::equal(output, inputs[request] * 2)) << "request " << request;
  }
  // At the gate, the doubles and the fifth of four numbers alone; two wide ones; four together.
  EXPECT_EQ(sizes_of(ensemble, 5), (std::vector<std::uint64_t>{3, 1, 0, 1, 0}));
}

TEST_F(Batching, RowsAreCountedAndAreNotDividedBetweenCalls) {
  Ensemble ensemble({gated()}, EnsembleOptions().max_batch(4));
  hold(ensemble);
  std::vector<torch::Tensor> inputs;
  std::vector<PendingAnswer> pending;
  for (const std::int64_t rows : {2, 1, 2, 6, 1, 3}) {
    inputs.push_back(numbers(static_cast<float>(rows), {rows, 3}));
    pending.push_back(ensemble.submit(inputs.back()));
  }
  gate_.open();
  for (std::size_t request = 0; request < inputs.size(); ++request) {
    EXPECT_TRUE(torch::equal(pending[request].get().output, inputs[request] * 2)) << request;
  }
  // The gate; 2+1; 2; 6, which is more than a batch; 1+3.
  EXPECT_EQ(sizes_of(ensemble, 3), (std::vector<std::uint64_t>{3, 2, 0}));
  EXPECT_THROW(static_cast<void>(ensemble.submit(torch::tensor(1.0F))), c10::Error);
}

TEST_F(Batching, SamplesGetADimensionAndLoseIt) {
  const auto per_sample = member("a", [this] {
    return [model = gate_.model()](torch::Tensor x) {
      return model(x).flatten(1).sum(1) + 1000 * (x.dim() == 2 ? 1 : 0);
    };
  });
  Ensemble ensemble(
      {per_sample},
      EnsembleOptions().max_batch(8).batch_form(BatchForm::Samples).sample(numbers(0, {4})));
  hold(ensemble);
  std::vector<PendingAnswer> pending;
  for (int request = 0; request < 3; ++request) {
    pending.push_back(ensemble.submit(numbers(static_cast<float>(request), {4})));
  }
  gate_.open();
  for (int request = 0; request < 3; ++request) {
    const auto output = pending[static_cast<std::size_t>(request)].get().output;
    EXPECT_EQ(output.dim(), 0);
    EXPECT_EQ(output.item<float>(), static_cast<float>(4 * request + 6 + 1000));
  }
  EXPECT_EQ(sizes_of(ensemble, 4), (std::vector<std::uint64_t>{1, 0, 1, 0}));
  EXPECT_EQ(ensemble.submit(numbers(7, {4})).get().output.item<float>(), 34 + 1000);
}

TEST_F(Batching, AnErrorInABatchIsThatOfOneRequest) {
  const auto choosy = member("a", [this] {
    return [model = gate_.model()](torch::Tensor x) {
      TORCH_CHECK(!(x == 13).any().item<bool>(), "13 is not for me");
      return model(x);
    };
  });
  Ensemble ensemble({choosy}, EnsembleOptions().max_batch(4));
  hold(ensemble);
  std::vector<PendingAnswer> pending;
  for (const float value : {1.0F, 13.0F, 21.0F}) {
    pending.push_back(ensemble.submit(torch::full({1, 2}, value)));
  }
  gate_.open();
  EXPECT_TRUE(torch::equal(pending[0].get().output, torch::full({1, 2}, 1.0F)));
  EXPECT_THROW(static_cast<void>(pending[1].get()), EnsembleError);
  EXPECT_TRUE(torch::equal(pending[2].get().output, torch::full({1, 2}, 21.0F)));
}

TEST_F(Batching, AnOutputWithoutTheRowsOfTheBatchIsAnError) {
  const auto summing = member(
      "a", [this] { return [model = gate_.model()](torch::Tensor x) { return model(x).sum(); }; });
  Ensemble ensemble({summing}, EnsembleOptions().max_batch(2).batch_form(BatchForm::Samples));
  try {
    static_cast<void>(ensemble.submit(numbers(1, {4})).get());
    ADD_FAILURE() << "no error";
  } catch (const EnsembleError& error) {
    EXPECT_NE(std::string(error.what()).find("returned [] for a batch of 1; the first dimension"),
              std::string::npos)
        << error.what();
  }
}

// The delay is far longer than the test, unless a batch that is full does not end it.
TEST(BatchDelay, ABatchWaitsUntilItIsFull) {
  Ensemble ensemble({testing::times("a", 2)}, EnsembleOptions()
                                                  .max_batch(3)
                                                  .max_delay(std::chrono::minutes(10))
                                                  .deadline(std::chrono::minutes(20)));
  std::vector<PendingAnswer> pending;
  for (int request = 0; request < 6; ++request) {
    pending.push_back(ensemble.submit(numbers(static_cast<float>(request))));
  }
  for (int request = 0; request < 6; ++request) {
    EXPECT_TRUE(torch::equal(pending[static_cast<std::size_t>(request)].get().output,
                             numbers(static_cast<float>(request)) * 2));
  }
  EXPECT_EQ(ensemble.statistics().members[0].batch_sizes[2], 2U);
}

TEST(BatchDelay, ABatchThatIsNotFullGoesAfterTheDelay) {
  Ensemble ensemble({testing::times("a", 2)},
                    EnsembleOptions().max_batch(100).max_delay(std::chrono::milliseconds(30)));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(torch::equal(ensemble.submit(numbers(1)).get().output, numbers(1) * 2));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(30));
}

}  // namespace
}  // namespace lockstep::inference
