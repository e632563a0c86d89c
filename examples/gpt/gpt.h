// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace example {

/// What to build. The defaults are a model that two cores train in minutes; GPT-2 itself has 50257
/// tokens, 1024 positions, 12 layers, 12 heads and a width of 768.
struct GptOptions {
  /// Tokens that there are.
  TORCH_ARG(int64_t, vocabulary) = 256;
  /// Tokens of the longest input.
  TORCH_ARG(int64_t, positions) = 128;
  TORCH_ARG(int64_t, layers) = 4;
  /// Of attention; the width is a multiple of it.
  TORCH_ARG(int64_t, heads) = 4;
  TORCH_ARG(int64_t, width) = 128;
  /// Share of the values that training drops, in the three places where GPT-2 does.
  TORCH_ARG(double, dropout) = 0.0;
};

/// x W + b. The weight lies as in files of GPT-2, [in, out], which is the other way round than in
/// `torch::nn::Linear`. So those files are read and written without turning anything.
class ProjectionImpl : public torch::nn::Module {
 public:
  ProjectionImpl(int64_t in, int64_t out, double deviation);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::Tensor weight_;
  torch::Tensor bias_;
};
TORCH_MODULE(Projection);

/// Each token looks at itself and at those before it.
class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const GptOptions& options);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  int64_t heads_;
  double dropout_;
  Projection c_attn_{nullptr};  // queries, keys and values in one go
  Projection c_proj_{nullptr};
};
TORCH_MODULE(Attention);

/// Two projections with a GELU between them.
class MlpImpl : public torch::nn::Module {
 public:
  explicit MlpImpl(const GptOptions& options);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  double dropout_;
  Projection c_fc_{nullptr};
  Projection c_proj_{nullptr};
};
TORCH_MODULE(Mlp);

/// Attention and MLP, each added to what came in, each with a layer norm before it.
class BlockImpl : public torch::nn::Module {
 public:
  explicit BlockImpl(const GptOptions& options);
  torch::Tensor forward(torch::Tensor x);

 private:
  torch::nn::LayerNorm ln_1_{nullptr};
  Attention attn_{nullptr};
  torch::nn::LayerNorm ln_2_{nullptr};
  Mlp mlp_{nullptr};
};
TORCH_MODULE(Block);

/// The language model GPT-2. Parameters have the names, shapes and order of Hugging Face's
/// `GPT2Model`, and the initial distribution of the paper. The head is the table of token
/// embeddings, used a second time.
///
/// Shapes: input int64 [N, T], T at most `positions`; output [N, T, vocabulary], the logits of the
/// token that follows each.
/// Throws: `c10::Error` where the width is no multiple of the heads, or an input is too long.
/// Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019;
/// transformers 4.57, `modeling_gpt2.py`.
class GptImpl : public torch::nn::Module {
 public:
  explicit GptImpl(const GptOptions& options);
  torch::Tensor forward(const torch::Tensor& tokens);

  [[nodiscard]] const GptOptions& options() const { return options_; }

 private:
  GptOptions options_;
  torch::nn::Embedding wte_{nullptr};  // tokens
  torch::nn::Embedding wpe_{nullptr};  // positions
  std::vector<Block> blocks_;
  torch::nn::LayerNorm ln_f_{nullptr};
};
TORCH_MODULE(Gpt);

}  // namespace example
