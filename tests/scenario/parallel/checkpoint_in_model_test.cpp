// SPDX-License-Identifier: BSD-3-Clause
// Activation checkpoints inside DistributedDataParallel, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/torch.h>

#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

class CheckpointInModel : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, CheckpointInModel, ::testing::Values(1, 2, 3));

// The generators belong to the process, and the ranks are threads of it.
CheckpointOptions without_random() {
  return CheckpointOptions().preserve_random_state(false);
}

struct LayersImpl : torch::nn::Module {
  explicit LayersImpl(bool is_checkpointed) : uses_checkpoint(is_checkpointed) {
    first = register_module("first", torch::nn::Linear(4, 4));
    middle = register_module("middle", torch::nn::Linear(4, 4));
    last = register_module("last", torch::nn::Linear(4, 4));
  }
  torch::Tensor part(torch::nn::Linear& layer, const torch::Tensor& x) {
    const auto compute = [&layer](const torch::Tensor& y) { return torch::tanh(layer(y)); };
    return uses_checkpoint ? checkpoint(without_random(), compute, x) : compute(x);
  }
  /// The first part's input needs no gradient, and the middle part is used three times.
  torch::Tensor forward(torch::Tensor x) {
    x = part(first, x);
    for (int i = 0; i < 3; ++i) x = part(middle, x);
    return part(last, x);
  }
  bool uses_checkpoint;
  torch::nn::Linear first{nullptr}, middle{nullptr}, last{nullptr};
};
TORCH_MODULE(Layers);

TEST_P(CheckpointInModel, SeveralOfOnePartGiveTheSameAverages) {
  Layers plain(false);
  fill_parameters(*plain);
  const auto joined = torch::sin(torch::arange(24.0)).view({6, 4});
  for (int step = 0; step < 2; ++step) plain->forward(joined).pow(2).mean().backward();
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Layers net(true);
    fill_parameters(*net);
    DistributedDataParallel<Layers> model(
        net, group,
        DistributedDataParallelOptions().bucket_cap_bytes(32).first_bucket_cap_bytes(32));
    for (int step = 0; step < 2; ++step) {
      model->forward(share(joined, group->rank(), group->size())).pow(2).mean().backward();
    }
    const auto expected = plain->parameters();
    const auto actual = model->parameters();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(torch::allclose(actual[i].grad(), expected[i].grad(), 1e-5, 1e-7)) << i;
    }
    group->close();
  });
}

struct NormImpl : torch::nn::Module {
  NormImpl(const std::shared_ptr<ProcessGroup>& group, bool is_checkpointed)
      : uses_checkpoint(is_checkpointed) {
    fc = register_module("fc", torch::nn::Linear(4, 3));
    norm = register_module("norm", nn::SyncBatchNorm(3, group));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto compute = [this](const torch::Tensor& y) { return norm(fc(y)); };
    return uses_checkpoint ? checkpoint(without_random(), compute, x) : compute(x);
  }
  bool uses_checkpoint;
  torch::nn::Linear fc{nullptr};
  nn::SyncBatchNorm norm{nullptr};
};
TORCH_MODULE(Norm);

TEST_P(CheckpointInModel, ASyncBatchNormMeetsTheOtherRanksAgainInBackward) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto x = torch::sin(torch::arange(16.0) + group->rank()).view({4, 4});
    std::vector<torch::Tensor> gradients[2];
    for (const bool is_checkpointed : {false, true}) {
      Norm net(group, is_checkpointed);
      fill_parameters(*net);
      DistributedDataParallel<Norm> model(net, group);
      model->forward(x).pow(3).mean().backward();
      for (const auto& parameter : model->parameters()) {
        gradients[is_checkpointed].push_back(parameter.grad().clone());
      }
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      EXPECT_TRUE(torch::equal(gradients[0][i], gradients[1][i])) << i;
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
