// SPDX-License-Identifier: BSD-3-Clause
#include "sampling.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

namespace example {

torch::Tensor sample_tokens(Gpt& net, const torch::Tensor& prompt, const SamplingOptions& options) {
  TORCH_CHECK_VALUE(prompt.numel() > 0, "a prompt has at least one token");
  const torch::NoGradGuard no_grad;
  net->eval();
  auto random = at::detail::createCPUGenerator(options.seed());
  const auto device = net->parameters().front().device();
  const auto& model = net->options();
  auto tokens = prompt.to(torch::kLong);
  for (int64_t i = 0; i < options.length(); ++i) {
    // What is further back than the model can look is forgotten.
    const auto seen = tokens.slice(0, std::max<int64_t>(0, tokens.size(0) - model.positions()));
    const auto logits = net->forward(seen.unsqueeze(0).to(device))[0][-1].to(torch::kCPU);
    // A training that diverges says so in its next step.
    if (!logits.isfinite().all().item<bool>()) return tokens;
    const auto [best, numbers] =
        (logits / options.temperature()).topk(std::min(options.top_k(), model.vocabulary()));
    const auto drawn = best.softmax(0).multinomial(1, /*replacement=*/false, random);
    tokens = torch::cat({tokens, numbers.index_select(0, drawn)});
  }
  return tokens;
}

std::string sample_text(Gpt& net, const std::string& prompt, const SamplingOptions& options) {
  auto start = torch::empty({static_cast<int64_t>(prompt.size())}, torch::kLong);
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    start[static_cast<int64_t>(i)] = static_cast<int64_t>(static_cast<unsigned char>(prompt[i]));
  }
  const auto tokens = sample_tokens(net, start, options);
  std::string text;
  for (int64_t i = 0; i < tokens.size(0); ++i) {
    const auto token = tokens[i].item<int64_t>();
    const bool is_shown = token == '\n' || (token >= ' ' && token <= '~');
    text += is_shown ? static_cast<char>(token) : '?';
  }
  return text;
}

}  // namespace example
