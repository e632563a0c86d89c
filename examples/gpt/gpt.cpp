// SPDX-License-Identifier: BSD-3-Clause
#include "gpt.h"

#include <cmath>

namespace example {
namespace {

namespace nn = torch::nn;
namespace functional = torch::nn::functional;

constexpr double kDeviation = 0.02;  // of new weights

// What is added to the stream through the blocks starts smaller, so that the stream's variance does
// not grow with the number of layers.
double residual_deviation(const GptOptions& options) {
  return kDeviation / std::sqrt(2.0 * static_cast<double>(options.layers()));
}

torch::Tensor drop(const torch::Tensor& x, double share, bool is_training) {
  return share > 0 ? torch::dropout(x, share, is_training) : x;
}

nn::LayerNorm layer_norm(const GptOptions& options) {
  return nn::LayerNorm(nn::LayerNormOptions({options.width()}).eps(1e-5));
}

}  // namespace

ProjectionImpl::ProjectionImpl(int64_t in, int64_t out, double deviation) {
  weight_ = register_parameter("weight", torch::randn({in, out}) * deviation);
  bias_ = register_parameter("bias", torch::zeros({out}));
}

torch::Tensor ProjectionImpl::forward(const torch::Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() = bias_.size(0);
  return torch::addmm(bias_, x.reshape({-1, x.size(-1)}), weight_).view(shape);
}

AttentionImpl::AttentionImpl(const GptOptions& options)
    : heads_(options.heads()), dropout_(options.dropout()) {
  const auto width = options.width();
  c_attn_ = register_module("c_attn", Projection(width, 3 * width, kDeviation));
  c_proj_ = register_module("c_proj", Projection(width, width, residual_deviation(options)));
}

torch::Tensor AttentionImpl::forward(const torch::Tensor& x) {
  const auto batch = x.size(0), length = x.size(1), width = x.size(2);
  const auto parts = c_attn_(x).split(width, 2);
  const auto heads_of = [&](const torch::Tensor& part) {  // [batch, heads, length, width of a head]
    return part.view({batch, length, heads_, width / heads_}).transpose(1, 2);
  };
  const auto looked = at::scaled_dot_product_attention(
      heads_of(parts[0]), heads_of(parts[1]), heads_of(parts[2]), /*attn_mask=*/{},
      is_training() ? dropout_ : 0.0, /*is_causal=*/true);
  const auto joined = looked.transpose(1, 2).reshape({batch, length, width});
  return drop(c_proj_(joined), dropout_, is_training());
}

MlpImpl::MlpImpl(const GptOptions& options) : dropout_(options.dropout()) {
  const auto width = options.width();
  c_fc_ = register_module("c_fc", Projection(width, 4 * width, kDeviation));
  c_proj_ = register_module("c_proj", Projection(4 * width, width, residual_deviation(options)));
}

torch::Tensor MlpImpl::forward(const torch::Tensor& x) {
  return drop(c_proj_(torch::gelu(c_fc_(x), "tanh")), dropout_, is_training());
}

BlockImpl::BlockImpl(const GptOptions& options) {
  ln_1_ = register_module("ln_1", layer_norm(options));
  attn_ = register_module("attn", Attention(options));
  ln_2_ = register_module("ln_2", layer_norm(options));
  mlp_ = register_module("mlp", Mlp(options));
}

torch::Tensor BlockImpl::forward(torch::Tensor x) {
  x = x + attn_(ln_1_(x));
  return x + mlp_(ln_2_(x));
}

GptImpl::GptImpl(const GptOptions& options) : options_(options) {
  TORCH_CHECK_VALUE(options.heads() > 0 && options.width() % options.heads() == 0, "a width of ",
                    options.width(), " cannot be shared among ", options.heads(), " heads");
  wte_ = register_module("wte", nn::Embedding(options.vocabulary(), options.width()));
  wpe_ = register_module("wpe", nn::Embedding(options.positions(), options.width()));
  nn::init::normal_(wte_->weight, 0.0, kDeviation);
  nn::init::normal_(wpe_->weight, 0.0, kDeviation);
  nn::ModuleList list;
  for (int64_t i = 0; i < options.layers(); ++i) {
    blocks_.emplace_back(options);
    list->push_back(blocks_.back());
  }
  register_module("h", list);
  ln_f_ = register_module("ln_f", layer_norm(options));
}

torch::Tensor GptImpl::forward(const torch::Tensor& tokens) {
  TORCH_CHECK_VALUE(tokens.size(1) <= options_.positions(), tokens.size(1),
                    " tokens are more than the model's ", options_.positions(), " positions");
  const auto positions = torch::arange(tokens.size(1), tokens.options());
  auto x = drop(wte_(tokens) + wpe_(positions), options_.dropout(), is_training());
  for (auto& block : blocks_) x = block(x);
  return functional::linear(ln_f_(x), wte_->weight);
}

}  // namespace example
