// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A model whose forward returns optional tensors, some of them out of a checkpoint. The headers of
// DistributedDataParallel and of checkpoint come before this one, in the order that is tested.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <optional>
#include <vector>

#include "support/in_process_ranks.h"

namespace lockstep::testing {

using OptionalTensors = std::vector<std::optional<torch::Tensor>>;

struct OptionalOutputsImpl : torch::nn::Module {
  OptionalOutputsImpl() {
    weight = register_parameter("weight", torch::full({1}, 3.0F));
    scale = register_parameter("scale", torch::full({1}, 2.0F));
  }
  OptionalTensors forward(const torch::Tensor& x) {
    // The generators belong to the process, and the ranks are threads of it.
    const auto options = CheckpointOptions().preserve_random_state(false);
    auto outputs = checkpoint(
        options,
        [this](const torch::Tensor& y) {
          return OptionalTensors{(y * weight).square(), std::nullopt};
        },
        x);
    outputs.emplace_back(x * scale);
    return outputs;
  }
  torch::Tensor weight, scale;
};
TORCH_MODULE(OptionalOutputs);

/// Rank r gives r + 1. The derivative of (w x)^2 by w is 2 w x^2, of s x by s it is x.
inline void check_optional_outputs(int ranks) {
  run_ranks_or_throw(ranks, [](const std::shared_ptr<ProcessGroup>& group) {
    OptionalOutputs net;
    DistributedDataParallel<OptionalOutputs> model(net, group);
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      const auto outputs = model->forward(torch::full({1}, static_cast<float>(group->rank() + 1)));
      ASSERT_EQ(outputs.size(), 3U);
      EXPECT_FALSE(outputs[1].has_value());
      (outputs[0].value() + outputs[2].value()).backward();
      float mean = 0, mean_square = 0;
      for (int rank = 0; rank < group->size(); ++rank) {
        const auto x = static_cast<float>(rank + 1);
        mean += x / static_cast<float>(group->size());
        mean_square += x * x / static_cast<float>(group->size());
      }
      EXPECT_FLOAT_EQ(net->weight.grad().item<float>(), 6 * mean_square);
      EXPECT_FLOAT_EQ(net->scale.grad().item<float>(), mean);
    }
    group->close();
  });
}

}  // namespace lockstep::testing
