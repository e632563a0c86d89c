// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about files of weights. check_snippets.py compares each `// [name]` part
// with the page.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>

#include "support/raw_safetensors.h"

namespace {

class CheckpointingPage : public ::testing::Test {
 protected:
  CheckpointingPage() { std::filesystem::current_path(folder_.path()); }
  ~CheckpointingPage() override { std::filesystem::current_path("/"); }

  torch::nn::Linear net{2, 3};

 private:
  lockstep::training::TemporaryFolder folder_;
};

using Example = torch::data::Example<>;
struct Numbers : torch::data::Dataset<Numbers> {
  Example get(std::size_t index) override {
    return {torch::full({2}, static_cast<double>(index)), torch::zeros({1})};
  }
  torch::optional<std::size_t> size() const override { return 12; }
};

TEST_F(CheckpointingPage, IsDeferred) {
  const auto group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  lockstep::data::DataLoader loader(
      Numbers(), lockstep::data::DistributedSampler(12, group->size(), group->rank()),
      lockstep::data::DataLoaderOptions().batch_size(4));
  lockstep::DistributedDataParallel<torch::nn::Linear> model(net, group);
  std::int64_t step = 0;
  lockstep::training::TrainingState state;
  state.add("model", net).add("step", step);
  // [deferred]
  lockstep::training::Checkpointer checkpointer(group, "run/checkpoints",
      lockstep::training::CheckpointerOptions().every_steps(100).deferred(true));
  for (auto& batch : loader) {
    optimizer.zero_grad();
    model->forward(batch.data).square().mean().backward();
    checkpointer.before_step();
    optimizer.step();
    ++step;
    checkpointer.after_step(state, step);
  }
  // [deferred]
  EXPECT_EQ(step, 3);
  group->close();
}

TEST_F(CheckpointingPage, GoesOn) {
  const auto group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  lockstep::data::DataLoader loader(
      Numbers(), lockstep::data::DistributedSampler(12, group->size(), group->rank()),
      lockstep::data::DataLoaderOptions().batch_size(4));
  lockstep::DistributedDataParallel<torch::nn::Linear> model(net, group);
  // [run]
  std::int64_t step = 0;
  lockstep::training::TrainingState state;
  state.add("model", net).add("optimizer", optimizer).add("loader", loader).add("step", step)
      .add_random_state();
  lockstep::training::Checkpointer checkpointer(group, "run/checkpoints",
      lockstep::training::CheckpointerOptions().every_steps(100).keep_last(3));
  if (const auto found = checkpointer.load_latest(state)) {
    std::cout << "resumed at step " << found->step << '\n';
  }
  // [run]
  // [loop]
  for (auto& batch : loader) {
    optimizer.zero_grad();
    model->forward(batch.data).square().mean().backward();
    optimizer.step();
    ++step;
    checkpointer.after_step(state, step);
  }
  checkpointer.wait();
  // [loop]
  EXPECT_EQ(step, 3);
  // [hook]
  lockstep::hooks::PowerSgd hook;
  model->register_communication_hook(hook);
  lockstep::training::TrainingState all;
  all.add("model", net).add("optimizer", optimizer).add("ddp", model).add_of_rank("hook", hook);
  // [hook]
  checkpointer.save(all, 4);
  checkpointer.wait();
  EXPECT_TRUE(checkpointer.load_latest(all));
  // [stop]
  lockstep::StopRequest stop(*group);
  for (; step < 1000; ++step) {
    if (stop.requested()) {
      checkpointer.save(state, step);
      checkpointer.wait();
      break;
    }
  }
  // [stop]
  EXPECT_EQ(step, 1000);
  // [optimizer]
  lockstep::training::save_optimizer(optimizer, net, "optimizer.safetensors");
  lockstep::training::load_optimizer(optimizer, net, "optimizer.safetensors");
  // [optimizer]
  group->close();
}

TEST_F(CheckpointingPage, SavesAndLoads) {
  const auto before = net->weight.clone();
  // [state]
  lockstep::training::save_state(net, "net.safetensors");
  lockstep::training::load_state(net, "net.safetensors");
  // [state]
  EXPECT_TRUE(net->weight.equal(before));
}

TEST_F(CheckpointingPage, TakesAPart) {
  lockstep::training::save_safetensors("model.safetensors",
                                       {{"backbone.scale", torch::ones({3, 2})}});
  // [part]
  const auto found = lockstep::training::load_state(
      net, "model.safetensors",
      lockstep::training::LoadOptions()
          .strict(false)
          .prefix("backbone.")
          .rename([](const std::string& name) { return name == "scale" ? "weight" : name; }));
  for (const auto& name : found.missing) std::cout << name << " keeps its values\n";
  // [part]
  EXPECT_TRUE(net->weight.equal(torch::ones({3, 2})));
}

TEST_F(CheckpointingPage, WritesAMap) {
  const auto mean = torch::ones({3});
  const auto deviation = torch::ones({3});
  // [map]
  lockstep::training::save_safetensors("mean.safetensors", {{"mean", mean}, {"std", deviation}},
                                       {{"images", "60000"}});
  const auto tensors = lockstep::training::load_safetensors("mean.safetensors");
  const auto header = lockstep::training::read_safetensors_header("mean.safetensors");
  std::cout << header.metadata.at("images") << " images, mean of shape "
            << tensors.at("mean").sizes() << '\n';
  // [map]
  EXPECT_TRUE(tensors.at("mean").equal(mean));
}

TEST_F(CheckpointingPage, DividesLargeOnes) {
  std::filesystem::create_directory("weights");
  const std::map<std::string, torch::Tensor> tensors{{"a", torch::ones({3})}};
  // [shards]
  lockstep::training::save_safetensors_shards("weights", tensors, std::uint64_t{4} << 30);
  const auto again = lockstep::training::load_safetensors("weights");
  // [shards]
  EXPECT_TRUE(again.at("a").equal(tensors.at("a")));
}

}  // namespace
