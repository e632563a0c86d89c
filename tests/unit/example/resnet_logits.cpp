// SPDX-License-Identifier: BSD-3-Clause
// What resnet_weights_driver.py compares with the programs that made the weights:
//   resnet_logits ARCH WEIGHTS IMAGES OUTPUT
// loads WEIGHTS into the model of examples/resnet, reads `images` of the file IMAGES, and writes
// the `logits` of evaluation to OUTPUT. All files are safetensors.
#include "resnet.h"
#include "weights.h"

#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <exception>
#include <iostream>

namespace {

void compare(const char* arch, const char* weights, const char* input, const char* output) {
  at::set_num_threads(1);
  const torch::NoGradGuard no_grad;
  const auto images = lockstep::training::load_safetensors(input).at("images");
  example::ResNet net(example::ResNetOptions(arch).in_channels(images.size(1)).num_classes(1000));
  const auto loaded = example::load_resnet(net, weights);
  TORCH_CHECK(loaded.missing.empty() && loaded.unexpected.empty(), weights, ": ",
              loaded.missing.size(), " names are missing, ", loaded.unexpected.size(),
              " are not expected");
  net->eval();
  lockstep::training::save_safetensors(output, {{"logits", net->forward(images)}});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: resnet_logits ARCH WEIGHTS IMAGES OUTPUT\n";
    return 2;
  }
  try {
    compare(argv[1], argv[2], argv[3], argv[4]);
    return 0;
  } catch (const c10::Error& error) {
    std::cerr << "resnet_logits: " << error.what_without_backtrace() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "resnet_logits: " << error.what() << '\n';
  }
  return 1;
}
