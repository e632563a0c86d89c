// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace example {

/// What to build; the ranks of the tensor group divide heads and 4 * width.
struct ParallelGptOptions {
  TORCH_ARG(int64_t, vocabulary) = 256;
  TORCH_ARG(int64_t, positions) = 64;
  TORCH_ARG(int64_t, layers) = 2;
  TORCH_ARG(int64_t, heads) = 4;
  TORCH_ARG(int64_t, width) = 64;
};

/// The block of examples/gpt, of which each rank has some heads, and some columns of the MLP.
class ParallelBlockImpl : public torch::nn::Module {
 public:
  ParallelBlockImpl(const ParallelGptOptions& options,
                    const std::shared_ptr<lockstep::ProcessGroup>& tensor_group);
  torch::Tensor forward(torch::Tensor x);

 private:
  torch::Tensor attend(const torch::Tensor& x);

  int64_t heads_;  // of this rank
  torch::nn::LayerNorm ln_1_{nullptr}, ln_2_{nullptr};
  lockstep::nn::ColumnParallelLinear c_attn_{nullptr}, c_fc_{nullptr};
  lockstep::nn::RowParallelLinear c_proj_{nullptr}, c_proj_of_mlp_{nullptr};
};
TORCH_MODULE(ParallelBlock);

/// The language model of examples/gpt, shared among the ranks of a tensor group. Every rank gets
/// the same tokens, and computes the same loss. Its files have names and a layout of their own, not
/// those of examples/gpt.
///
/// Shapes: tokens and targets int64 [N, T]; the result is the mean loss.
class ParallelGptImpl : public torch::nn::Module {
 public:
  ParallelGptImpl(const ParallelGptOptions& options,
                  std::shared_ptr<lockstep::ProcessGroup> tensor_group);
  torch::Tensor forward(const torch::Tensor& tokens, const torch::Tensor& targets);

 private:
  std::shared_ptr<lockstep::ProcessGroup> tensor_group_;
  lockstep::nn::VocabParallelEmbedding wte_{nullptr};
  torch::nn::Embedding wpe_{nullptr};
  std::vector<ParallelBlock> blocks_;
  torch::nn::LayerNorm ln_f_{nullptr};
  lockstep::nn::VocabParallelCrossEntropy loss_{nullptr};
};
TORCH_MODULE(ParallelGpt);

}  // namespace example
