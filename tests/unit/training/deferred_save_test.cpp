// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/deferred_tensors.h"
#include "training/checkpoint/snapshot.h"

namespace lockstep::training {
namespace {

using testing::expect_no_errors;
using testing::expect_refusal;
using testing::run_ranks;
using testing::run_ranks_or_throw;

// Three pieces, the last one not whole.
constexpr std::int64_t kElements = 2 * static_cast<std::int64_t>(kPieceBytes) / 4 + 1000;

/// One tensor that is read in place, and what was read of it.
class DeferredRead : public ::testing::Test {
 protected:
  DeferredRead() {
    tensors_.add(tensor_, room_);
    tensors_.when_over([this] { ++times_over_; });
  }
  /// Calls `at_piece` with the number of each piece, before the next one is read.
  void read(const std::function<void(int)>& at_piece = [](int) {}) {
    int piece = 0;
    tensors_.read(tensor_, [&](std::span<const std::byte> bytes) {
      read_.insert(read_.end(), bytes.begin(), bytes.end());
      at_piece(piece++);
    });
  }
  void expect_all_read() const {
    ASSERT_EQ(read_.size(), before_.nbytes());
    EXPECT_EQ(std::memcmp(read_.data(), before_.const_data_ptr(), read_.size()), 0);
    EXPECT_EQ(times_over_, 1);
  }

  at::Tensor tensor_ = torch::arange(kElements, torch::kFloat);
  at::Tensor before_ = tensor_.clone();
  at::Tensor room_ = torch::zeros({4 * kElements}, torch::kByte);
  std::vector<std::byte> read_;
  DeferredTensors tensors_;
  int times_over_ = 0;
};

TEST_F(DeferredRead, WhatIsReadInPlaceIsNotCopied) {
  read();
  expect_all_read();
  EXPECT_EQ(tensors_.release(), 0U);
  EXPECT_FALSE(room_.any().item<bool>());
}

TEST_F(DeferredRead, WhatIsReleasedBeforeItIsReadIsCopied) {
  EXPECT_EQ(tensors_.release(), tensor_.nbytes());
  EXPECT_EQ(tensors_.release(), 0U);
  tensor_.fill_(-1);
  read();
  expect_all_read();
}

TEST_F(DeferredRead, WhatIsReleasedInTheMiddleIsCopiedFromThereOn) {
  read([&](int piece) {
    if (piece != 0) return;
    EXPECT_EQ(tensors_.release(), tensor_.nbytes() - kPieceBytes);
    tensor_.fill_(-1);
  });
  expect_all_read();
}

TEST_F(DeferredRead, AChangeThatWasNotAnnouncedIsAnError) {
  const std::string reason = "call before_step() before the optimizer's step()";
  expect_refusal([&] { read([&](int piece) { tensor_.fill_(piece); }); }, reason);
  // Also when the call comes after the change.
  DeferredTensors late;
  late.add(tensor_, room_);
  tensor_.add_(1);
  late.release();
  expect_refusal([&] { late.read(tensor_, [](auto) {}); }, reason);
}

TEST(DeferredTensors, OnlyWhatLiesInTheOrderOfTheFileIsReadInPlace) {
  EXPECT_TRUE(DeferredTensors::can_read(torch::ones({2, 3})));
  EXPECT_TRUE(DeferredTensors::can_read(torch::ones({})));
  EXPECT_FALSE(DeferredTensors::can_read(torch::ones({2, 3}).t()));
  EXPECT_FALSE(DeferredTensors::can_read(torch::ones({0})));
  EXPECT_FALSE(DeferredTensors::can_read(torch::conj(torch::ones({2}, torch::kComplexFloat))));
}

TEST(DeferredTensors, SmallTensorsAreReadWhole) {
  for (const std::int64_t elements : {1, 3, 7, 8, 9, 100}) {
    const auto tensor = torch::arange(elements, torch::kByte);
    DeferredTensors tensors;
    tensors.add(tensor, torch::empty_like(tensor));
    std::vector<std::byte> read;
    tensors.read(tensor, [&](auto bytes) { read.assign(bytes.begin(), bytes.end()); });
    ASSERT_EQ(read.size(), tensor.nbytes());
    EXPECT_EQ(std::memcmp(read.data(), tensor.const_data_ptr(), read.size()), 0);
  }
}

/// A training in which each step changes every value.
struct DeferredTraining {
  DeferredTraining() {
    torch::NoGradGuard no_gradients;
    for (auto& parameter : net->parameters()) parameter.fill_(0.5);
    state.add("model", net).add("optimizer", optimizer).add("step", step);
  }
  void train(int steps, Checkpointer* checkpointer = nullptr) {
    for (int i = 0; i < steps; ++i) {
      optimizer.zero_grad();
      const auto data =
          torch::arange(8, torch::kFloat).view({4, 2}).add(0.1 * static_cast<double>(step)).sin();
      net->forward(data).square().mean().backward();
      if (checkpointer != nullptr) checkpointer->before_step();
      optimizer.step();
      ++step;
      if (checkpointer != nullptr) checkpointer->after_step(state, step);
    }
  }

  torch::nn::Sequential net{torch::nn::Linear(2, 300), torch::nn::BatchNorm1d(300),
                            torch::nn::Linear(300, 3000)};
  torch::optim::SGD optimizer{net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9)};
  std::int64_t step = 0;
  TrainingState state;
};

void expect_equal(const DeferredTraining& a, const DeferredTraining& b) {
  EXPECT_EQ(a.step, b.step);
  const auto left = a.net->named_parameters();
  for (const auto& item : b.net->named_parameters()) {
    EXPECT_TRUE(item.value().equal(left[item.key()])) << item.key();
  }
  const auto buffers = a.net->named_buffers();
  for (const auto& item : b.net->named_buffers()) {
    EXPECT_TRUE(item.value().equal(buffers[item.key()])) << item.key();
  }
}

class DeferredSaves : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, DeferredSaves, ::testing::Values(1, 2, 3));

TEST_P(DeferredSaves, EachIsOfTheMomentOfTheCall) {
  const TemporaryFolder folder;
  expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    DeferredTraining whole;
    {
      Checkpointer checkpointer(group, folder / "c",
                                CheckpointerOptions().every_steps(2).keep_last(100).deferred(true));
      whole.train(9, &checkpointer);
      checkpointer.wait();
      EXPECT_EQ(checkpointer.statistics().saves, 4);
      EXPECT_EQ(checkpointer.statistics().failures, 0);
      group->barrier();
    }
    for (const int step : {8, 6, 4, 2}) {
      DeferredTraining expected;
      expected.train(step);
      DeferredTraining loaded;
      Checkpointer checkpointer(group, folder / "c");
      const auto found = checkpointer.load_latest(loaded.state);
      ASSERT_TRUE(found);
      ASSERT_EQ(found->step, step);
      expect_equal(expected, loaded);
      // Momentum as well.
      expected.train(2);
      loaded.train(2);
      expect_equal(expected, loaded);
      group->barrier();
      if (group->rank() == 0) {
        std::filesystem::resize_file(
            folder / "c" / ("gen-00000" + std::to_string(step / 2)) / "values.safetensors", 1);
      }
      group->barrier();
    }
    group->close();
  }));
}

// However the thread runs, there is no checkpoint with values of two steps.
TEST(DeferredSave, AForgottenCallTearsNothing) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Linear net(2000, 2000);
    TrainingState state;
    state.add("model", net);
    Checkpointer checkpointer(group, folder / "c", CheckpointerOptions().deferred(true));
    torch::NoGradGuard no_gradients;
    for (int i = 1; i <= 5; ++i) {
      net->weight.fill_(i);
      checkpointer.save(state, i);
      net->weight.fill_(-1);
      try {
        checkpointer.wait();
        const auto file = folder / "c" / ("gen-00000" + std::to_string(i)) / "model.safetensors";
        EXPECT_TRUE(load_safetensors(file).at("weight").eq(i).all().item<bool>());
      } catch (const c10::Error& error) {
        EXPECT_NE(std::string(error.what()).find("call before_step()"), std::string::npos)
            << error.what();
      }
    }
    group->close();
  });
}

TEST(DeferredSave, AForgottenCallIsAnErrorOfTheNextStep) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Linear net(10, 10);
    TrainingState state;
    state.add("model", net);
    Checkpointer checkpointer(group, folder / "c",
                              CheckpointerOptions().deferred(true).every_steps(2));
    const std::string reason =
        "before_step() was not called between the save of step 2 and step 3;";
    EXPECT_FALSE(checkpointer.after_step(state, 1));
    EXPECT_TRUE(checkpointer.after_step(state, 2));
    expect_refusal([&] { checkpointer.after_step(state, 3); }, reason);
    expect_refusal([&] { checkpointer.save(state, 3); }, reason);
    checkpointer.save(state, 2);  // no step lies between
    checkpointer.before_step();
    EXPECT_FALSE(checkpointer.after_step(state, 3));
    checkpointer.wait();
    group->close();
  });
}

TEST(DeferredSave, OnlyParametersAndTheOptimizerAreLeftInPlace) {
  DeferredTraining run;
  run.train(1);
  for (const int world_size : {1, 2}) {
    SnapshotMemory memory;
    const Snapshot snapshot = memory.take(run.state.parts(), 0, world_size, /*is_deferred=*/true);
    std::map<std::string, at::Tensor> saved;
    for (const auto& [name, file] : snapshot.files) {
      saved.insert(file.tensors.begin(), file.tensors.end());
    }
    std::size_t in_place = 0;
    for (const auto& item : run.net->named_parameters()) {
      if (!saved.contains(item.key())) continue;
      EXPECT_EQ(saved.at(item.key()).const_data_ptr(), item.value().const_data_ptr()) << item.key();
      ++in_place;
    }
    EXPECT_GT(in_place, 0U);
    for (const auto& item : run.net->named_buffers()) {
      ASSERT_TRUE(saved.contains(item.key())) << item.key();
      EXPECT_NE(saved.at(item.key()).const_data_ptr(), item.value().const_data_ptr()) << item.key();
    }
    EXPECT_GT(snapshot.deferred->release(), 0U);
  }
}

TEST(DeferredSave, OneThatFailedIsNotInTheWayOfTheNext) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    DeferredTraining run;
    Checkpointer checkpointer(group, folder / "c",
                              CheckpointerOptions().deferred(true).every_steps(1));
    // A file where the folder of the first save would be.
    std::filesystem::remove_all(folder / "c");
    run.train(1, &checkpointer);
    expect_refusal([&] { checkpointer.wait(); }, "the folder cannot be made");
    std::filesystem::create_directory(folder / "c");
    run.train(2, &checkpointer);
    checkpointer.wait();
    DeferredTraining whole;
    whole.train(3);
    DeferredTraining loaded;
    ASSERT_TRUE(checkpointer.load_latest(loaded.state));
    expect_equal(whole, loaded);
    group->close();
  });
}

TEST(DeferredSave, TheEndOfACheckpointerIsNoFault) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Linear net(1000, 1000);
    torch::NoGradGuard no_gradients;
    net->weight.fill_(1);
    TrainingState state;
    state.add("model", net);
    {
      Checkpointer checkpointer(group, folder / "c", CheckpointerOptions().deferred(true));
      checkpointer.save(state, 1);
    }
    net->weight.fill_(2);
    Checkpointer checkpointer(group, folder / "c");
    ASSERT_TRUE(checkpointer.load_latest(state));
    EXPECT_TRUE(net->weight.eq(1).all().item<bool>());
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::training
