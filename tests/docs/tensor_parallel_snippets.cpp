// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the page about tensor parallelism. check_snippets.py compares each `// [name]` part
// with the page.
#include <gtest/gtest.h>
#include <lockstep/amp/grad_scaler.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>

// Named: the pages' programs are compiled together.
namespace tensor_parallel_page {
namespace {

// [mlp]
struct MlpImpl : torch::nn::Module {
  explicit MlpImpl(const std::shared_ptr<lockstep::ProcessGroup>& tensor_group) {
    using lockstep::nn::ParallelLinearOptions;
    up = register_module("up", lockstep::nn::ColumnParallelLinear(ParallelLinearOptions(512, 2048, tensor_group)));
    down = register_module("down", lockstep::nn::RowParallelLinear(ParallelLinearOptions(2048, 512, tensor_group)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return down(torch::gelu(up(x))); }  // one all-reduce, in down
  lockstep::nn::ColumnParallelLinear up{nullptr};
  lockstep::nn::RowParallelLinear down{nullptr};
};
TORCH_MODULE(Mlp);
// [mlp]

// [sequence]
struct SequenceMlpImpl : torch::nn::Module {
  explicit SequenceMlpImpl(const std::shared_ptr<lockstep::ProcessGroup>& tensor_group) {
    const auto options = [&](int64_t in, int64_t out) {
      return lockstep::nn::ParallelLinearOptions(in, out, tensor_group).sequence_parallel(true);
    };
    norm = register_module("norm", lockstep::nn::SequenceParallelLayerNorm(torch::nn::LayerNormOptions({64}), tensor_group));
    up = register_module("up", lockstep::nn::ColumnParallelLinear(options(64, 256)));
    down = register_module("down", lockstep::nn::RowParallelLinear(options(256, 64)));
  }
  // x is this rank's part of the sequence, {length / ranks, batch, 64}, and so is the result.
  torch::Tensor forward(const torch::Tensor& x) { return x + down(torch::gelu(up(norm(x)))); }
  lockstep::nn::SequenceParallelLayerNorm norm{nullptr};
  lockstep::nn::ColumnParallelLinear up{nullptr};
  lockstep::nn::RowParallelLinear down{nullptr};
};
TORCH_MODULE(SequenceMlp);
// [sequence]

TEST(TensorParallelPage, SharesLayers) {
  const auto group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  const std::uint64_t seed = 7;
  torch::manual_seed(seed);
  const int sharers = 1;
  // [mesh]
  lockstep::Mesh mesh(group, {{"data", group->size() / sharers}, {"tensor", sharers}});  // neighbours share a model
  const auto tensor_group = mesh.group("tensor");
  Mlp net(tensor_group);  // the same seed on all ranks
  lockstep::DistributedDataParallel<Mlp> model(net, mesh.group("data"));
  // [mesh]
  const auto batch = torch::randn({8, 512});
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  // [step]
  optimizer.zero_grad();
  const auto loss = model->forward(batch).square().mean();  // the same on all ranks of tensor_group
  loss.backward();
  lockstep::nn::clip_grad_norm_(net, 1.0);                  // the norm of the full model
  optimizer.step();
  // [step]
  // [scaler]
  lockstep::amp::GradScaler scaler(lockstep::amp::GradScalerOptions().group(group));  // the group of all ranks
  // [scaler]
  EXPECT_TRUE(scaler.is_enabled());
  // [vocabulary]
  lockstep::nn::VocabParallelEmbedding table(50257, 64, tensor_group);
  lockstep::nn::VocabParallelCrossEntropy cross_entropy(
      lockstep::nn::VocabParallelCrossEntropyOptions(tensor_group).classes(50257));
  const auto tokens = torch::randint(50257, {4, 16});
  auto x = table(tokens);                                              // {4, 16, 64} on every rank
  x = lockstep::tensor_parallel::copy_to(x, tensor_group);             // into the region
  const auto logits = torch::linear(x, table->weight);                 // of this rank's tokens only
  const auto token_loss = cross_entropy(logits, tokens.roll(-1, 1));   // no rank has all logits
  // [vocabulary]
  EXPECT_NEAR(token_loss.item<double>(), 60, 60);
  // [parameters]
  torch::nn::Linear position_wise(64, 64);  // any module that sees parts of the sequence
  lockstep::nn::sum_gradients_of_sequence(position_wise, tensor_group);
  // [parameters]
  SequenceMlp sequence(tensor_group);
  EXPECT_EQ(sequence->forward(torch::randn({4, 2, 64})).sizes(), at::IntArrayRef({4, 2, 64}));
  const auto folder = std::filesystem::temp_directory_path() / ("tensor_page_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto path = folder / "weights.safetensors";
  // [files]
  if (mesh.index("data") == 0) lockstep::nn::save_full(net, path);  // the same bytes for any number of ranks
  group->barrier();
  lockstep::nn::load_full(net, path);                               // each rank takes its part
  // [files]
  std::filesystem::remove_all(folder);
  // [random]
  lockstep::tensor_parallel::RegionRandom random(seed, *tensor_group);
  {
    const auto inside = random.enter();  // another state on each rank
    x = torch::dropout(x, 0.1, /*train=*/true);
  }
  x = torch::dropout(x, 0.1, /*train=*/true);  // outside: the same on all ranks
  // [random]
  EXPECT_EQ(x.size(2), 64);
  // [state]
  struct RegionState {
    std::map<std::string, torch::Tensor> state() const { return {{"region", random.state()}}; }
    void load_state(const std::map<std::string, torch::Tensor>& saved) { random.set_state(saved.at("region")); }
    lockstep::tensor_parallel::RegionRandom& random;
  } region{random};
  std::string shape;
  for (const auto& name : mesh.names()) shape += name + "=" + std::to_string(mesh.size(name)) + " ";
  lockstep::training::TrainingState state;
  state.require("mesh", shape)  // "data=2 tensor=2 ": another mesh is refused before anything is loaded
      .add_of_rank("model", net)
      .add_of_rank("optimizer", optimizer)
      .add_of_rank("region", region)
      .add_random_state();
  // [state]
  EXPECT_EQ(state.parts().size(), 5U);
  // [added]
  // Each rank has its own loss, and what is minimised is their sum.
  const auto features = torch::randn({4, 8}).requires_grad_(true);
  const auto all = lockstep::autograd::all_gather(features, group);
  (features.matmul(all.t()).logsumexp(1)).sum().backward();  // also what the other ranks did with them
  // [added]
  EXPECT_TRUE(features.grad().defined());
  mesh.close();
  group->close();
}

}  // namespace
}  // namespace tensor_parallel_page
