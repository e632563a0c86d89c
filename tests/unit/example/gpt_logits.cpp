// SPDX-License-Identifier: BSD-3-Clause
// What gpt_parity_driver.py compares with transformers:
//   gpt_logits WEIGHTS HEADS TOKENS OUTPUT
// loads WEIGHTS into the model of examples/gpt, reads `tokens` of the file TOKENS, and writes the
// logits, the loss of predicting each next token, and its gradients (`grad.` and the parameter's
// name) to OUTPUT. All files are safetensors.
#include "recipe.h"
#include "weights.h"

#include <lockstep/training/safetensors.h>

#include <exception>
#include <iostream>
#include <map>
#include <string>

namespace {

void compare(const char* weights, int64_t heads, const char* input, const char* output) {
  at::set_num_threads(1);
  example::Gpt net(example::shape_of(weights, heads));
  example::load_gpt(net, weights);
  const auto tokens = lockstep::training::load_safetensors(input).at("tokens");
  const auto end = tokens.size(1);
  auto loss = example::loss_of(net, tokens.slice(1, 0, end - 1), tokens.slice(1, 1, end));
  loss.backward();
  std::map<std::string, torch::Tensor> results{{"loss", loss.detach()},
                                               {"logits", net->forward(tokens).detach()}};
  for (const auto& parameter : net->named_parameters()) {
    results["grad." + parameter.key()] = parameter.value().grad();
  }
  lockstep::training::save_safetensors(output, results);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: gpt_logits WEIGHTS HEADS TOKENS OUTPUT\n";
    return 2;
  }
  try {
    compare(argv[1], std::stoll(argv[2]), argv[3], argv[4]);
    return 0;
  } catch (const c10::Error& error) {
    std::cerr << "gpt_logits: " << error.what_without_backtrace() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "gpt_logits: " << error.what() << '\n';
  }
  return 1;
}
