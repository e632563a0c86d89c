// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <resnet/resnet.h>
#include <torch/torch.h>

#include <cstdint>
#include <string>

/// The models of ddp_step; ddp_step.py has the same.
namespace bench {

inline constexpr std::int64_t kClasses = 1000;
inline constexpr std::int64_t kWords = 8000;
inline constexpr std::int64_t kSentence = 32;
inline constexpr std::int64_t kWidth = 256;

/// A small encoder that sorts sentences into classes: 5.4 million parameters.
struct TransformerImpl : torch::nn::Module {
  TransformerImpl() {
    namespace nn = torch::nn;
    words = register_module("words", nn::Embedding(kWords, kWidth));
    encoder = register_module(
        "encoder",
        nn::TransformerEncoder(nn::TransformerEncoderOptions(
            nn::TransformerEncoderLayerOptions(kWidth, 4).dim_feedforward(4 * kWidth), 4)));
    head = register_module("head", nn::Linear(kWidth, kClasses));
  }
  /// Shapes: [words of a sentence, sentences] of numbers of words to [sentences, classes].
  torch::Tensor forward(const torch::Tensor& sentences) {
    return head(encoder(words(sentences)).mean(0));
  }
  torch::nn::Embedding words{nullptr};
  torch::nn::TransformerEncoder encoder{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Transformer);

/// Calls `use` with a new model, in PyTorch's default memory layout, as Python's side has it.
template <typename Use>
void with_model(const std::string& arch, std::uint64_t seed, Use&& use) {
  torch::manual_seed(seed);
  if (arch == "transformer") return use(Transformer());
  use(example::ResNet(example::ResNetOptions(arch).num_classes(kClasses).channels_last(false)));
}

}  // namespace bench
