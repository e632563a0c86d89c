// SPDX-License-Identifier: BSD-3-Clause
// What a checkpoint that is loaded does to the tensors of the program.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <lockstep/training/checkpointer.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;

/// A checkpoint of one rank.
class LoadedCheckpoint : public ::testing::Test {
 protected:
  LoadedCheckpoint() { at::set_num_threads(1); }
  ~LoadedCheckpoint() override { at::set_num_threads(threads_); }

  void save(const TrainingState& state) {
    checkpointer_.save(state, 1);
    checkpointer_.wait();
  }
  void load(TrainingState& state) { ASSERT_TRUE(checkpointer_.load_latest(state)); }

  static constexpr std::int64_t kLarge = std::int64_t{1} << 18;  // its copy goes past the caches

 private:
  int threads_ = at::get_num_threads();
  TemporaryFolder folder_;
  std::shared_ptr<ProcessGroup> group_ = init_process_group(
      ProcessGroupOptions().environment(testing::fake_environment(0, 1, testing::unique_job_id())));
  Checkpointer checkpointer_{group_, folder_ / "c"};
};

TEST_F(LoadedCheckpoint, TensorsOfAllKindsHaveTheirValues) {
  const auto numbers = torch::randn({kLarge});
  std::map<std::string, torch::Tensor> tensors{
      {"large", numbers.clone()},
      {"shifted", numbers.clone().slice(0, 3)},
      {"every_second", numbers.clone().slice(0, 0, kLarge, 2)},
      {"transposed", numbers.clone().view({512, 512}).t()},
      {"channels_last",
       numbers.clone().view({4, 16, 64, 64}).contiguous(torch::MemoryFormat::ChannelsLast)},
      {"bfloat16", numbers.to(torch::kBFloat16)},
      {"float8", numbers.to(torch::kFloat8_e4m3fn)},
      {"bool", numbers > 0},
      {"complex", torch::complex(numbers, numbers.flip(0))},
      {"conj", torch::complex(numbers, numbers.flip(0)).conj()},
      {"nothing", torch::zeros({0, 3})},
      {"scalar", torch::tensor(2.5)},
  };
  TrainingState state;
  std::map<std::string, torch::Tensor> expected;
  for (auto& [name, tensor] : tensors) {
    state.add(name, tensor);
    expected[name] = tensor.to(torch::kComplexDouble).clone();
  }
  save(state);
  for (auto& [name, tensor] : tensors) tensor.copy_(torch::zeros(tensor.sizes()));
  load(state);
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(tensor.to(torch::kComplexDouble).equal(expected[name])) << name;
  }
}

TEST_F(LoadedCheckpoint, ABackwardThatNeedsTheOldValuesIsAnError) {
  torch::Tensor weight = torch::ones({kLarge}, torch::requires_grad());
  TrainingState state;
  state.add("weight", weight);
  save(state);
  const auto loss = (weight * weight).sum();
  load(state);
  expect_refusal([&] { loss.backward(); }, "modified by an inplace operation");
}

/// Makes the model another one when it is loaded.
struct Converting {
  [[nodiscard]] std::string state() const { return "double"; }
  void load_state(const std::string&) { net->to(torch::kDouble); }
  torch::nn::Linear net{512, 512};
};

TEST_F(LoadedCheckpoint, AModelThatAnObjectHasConvertedIsConvertedFurther) {
  for (const auto dtype : {torch::kDouble, torch::kFloat}) {
    Converting converting;
    converting.net->to(dtype);
    TrainingState state;
    state.add("converting", converting).add("net", converting.net);
    save(state);
    const auto expected = converting.net->weight.detach().to(torch::kDouble).clone();
    torch::nn::init::zeros_(converting.net->weight);
    load(state);
    EXPECT_EQ(converting.net->weight.scalar_type(), torch::kDouble);
    EXPECT_TRUE(converting.net->weight.equal(expected));
  }
}

// An optimizer keeps the tensors that were read: each load has its own.
TEST_F(LoadedCheckpoint, OptimizersThatLoadTheSameShareNothing) {
  struct Run {
    Run() { state.add("net", net).add("optimizer", optimizer); }
    void train() {
      optimizer.zero_grad();
      net(torch::ones({2, 300})).square().mean().backward();
      optimizer.step();
    }
    torch::Tensor momentum() {
      const auto& states = optimizer.state();
      const auto found = states.find(net->weight.unsafeGetTensorImpl());
      return static_cast<torch::optim::SGDParamState&>(*found->second).momentum_buffer();
    }
    torch::nn::Linear net{300, 200};
    torch::optim::SGD optimizer{net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9)};
    TrainingState state;
  };
  Run first;
  first.train();
  save(first.state);
  const auto saved = first.momentum().clone();
  Run second;
  load(first.state);
  load(second.state);
  first.train();
  EXPECT_TRUE(second.momentum().equal(saved));
  EXPECT_FALSE(first.momentum().equal(saved));
  EXPECT_EQ(second.momentum().storage().nbytes(), second.momentum().nbytes());
  load(first.state);
  EXPECT_TRUE(first.momentum().equal(saved));
}

}  // namespace
}  // namespace lockstep::training
