// SPDX-License-Identifier: BSD-3-Clause
#include "parallel_gpt.h"

#include <utility>

namespace example {
namespace {

constexpr double kDeviation = 0.02;  // of the tables

torch::nn::LayerNorm layer_norm(const ParallelGptOptions& options) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.width()}));
}

}  // namespace

ParallelBlockImpl::ParallelBlockImpl(const ParallelGptOptions& options,
                                     const std::shared_ptr<lockstep::ProcessGroup>& tensor_group)
    : heads_(options.heads() / tensor_group->size()) {
  using namespace lockstep::nn;
  const auto width = options.width();
  const auto from_to = [&](int64_t in, int64_t out) {
    return ParallelLinearOptions(in, out, tensor_group);
  };
  ln_1_ = register_module("ln_1", layer_norm(options));
  // Queries, keys and values: of each, a rank has the columns of its heads.
  c_attn_ = register_module("c_attn", ColumnParallelLinear(from_to(width, 3 * width).parts(3)));
  c_proj_ = register_module("c_proj", RowParallelLinear(from_to(width, width)));
  ln_2_ = register_module("ln_2", layer_norm(options));
  c_fc_ = register_module("c_fc", ColumnParallelLinear(from_to(width, 4 * width)));
  c_proj_of_mlp_ = register_module("c_proj_of_mlp", RowParallelLinear(from_to(4 * width, width)));
}

torch::Tensor ParallelBlockImpl::attend(const torch::Tensor& x) {
  const auto parts = c_attn_(x).chunk(3, -1);
  const auto heads_of = [&](const torch::Tensor& part) {  // [N, heads, T, width of a head]
    return part.unflatten(-1, {heads_, part.size(-1) / heads_}).transpose(1, 2);
  };
  const auto seen = at::scaled_dot_product_attention(heads_of(parts[0]), heads_of(parts[1]),
                                                     heads_of(parts[2]), /*attn_mask=*/{},
                                                     /*dropout_p=*/0.0, /*is_causal=*/true);
  return c_proj_(seen.transpose(1, 2).flatten(2));  // the ranks' heads come together here
}

torch::Tensor ParallelBlockImpl::forward(torch::Tensor x) {
  x = x + attend(ln_1_(x));
  return x + c_proj_of_mlp_(torch::gelu(c_fc_(ln_2_(x)), "tanh"));
}

ParallelGptImpl::ParallelGptImpl(const ParallelGptOptions& options,
                                 std::shared_ptr<lockstep::ProcessGroup> tensor_group)
    : tensor_group_(std::move(tensor_group)) {
  const auto ranks = tensor_group_->size();
  TORCH_CHECK_VALUE(options.heads() % ranks == 0 && options.width() % options.heads() == 0,
                    "a width of ", options.width(), " with ", options.heads(),
                    " heads cannot be shared among ", ranks, " ranks");
  wte_ = register_module("wte", lockstep::nn::VocabParallelEmbedding(
                                    options.vocabulary(), options.width(), tensor_group_));
  wpe_ = register_module("wpe", torch::nn::Embedding(options.positions(), options.width()));
  {
    const torch::NoGradGuard no_grad;
    wte_->weight.mul_(kDeviation);
    wpe_->weight.mul_(kDeviation);
  }
  torch::nn::ModuleList list;
  for (int64_t i = 0; i < options.layers(); ++i) {
    blocks_.emplace_back(options, tensor_group_);
    list->push_back(blocks_.back());
  }
  register_module("h", list);
  ln_f_ = register_module("ln_f", layer_norm(options));
  loss_ = lockstep::nn::VocabParallelCrossEntropy(
      lockstep::nn::VocabParallelCrossEntropyOptions(tensor_group_).classes(options.vocabulary()));
}

torch::Tensor ParallelGptImpl::forward(const torch::Tensor& tokens, const torch::Tensor& targets) {
  auto x = wte_(tokens) + wpe_(torch::arange(tokens.size(1), tokens.options()));
  for (auto& block : blocks_) x = block(x);
  // The head is the table of tokens, used a second time: each rank has the logits of its tokens.
  x = lockstep::tensor_parallel::copy_to(ln_f_(x), tensor_group_);
  return loss_(torch::linear(x, wte_->weight), targets);
}

}  // namespace example
