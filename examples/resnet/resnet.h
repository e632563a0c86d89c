// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

namespace example {

/// What to build.
struct ResNetOptions {
  /* implicit */ ResNetOptions(std::string arch) : arch_(std::move(arch)) {}
  /* implicit */ ResNetOptions(const char* arch) : arch_(arch) {}

  /// resnet18, resnet34, resnet50: for photographs, the stem shrinks the image by four. resnet8,
  /// resnet14, resnet20: for small images, three stages of 16, 32 and 64 channels.
  TORCH_ARG(std::string, arch);
  TORCH_ARG(int64_t, in_channels) = 3;
  TORCH_ARG(int64_t, num_classes) = 1000;
  /// Whether the model works on channels-last memory when it runs on the CPU: 1.1 to 1.5 times as
  /// fast there. The input may have any layout, and results differ by rounding only.
  TORCH_ARG(bool, channels_last) = true;
};

/// Names that `ResNetOptions::arch` accepts.
[[nodiscard]] const std::vector<std::string>& resnet_architectures();

/// Residual network for classification. Parameters and buffers of the large ones have torchvision's
/// names, shapes, order and initial distribution, so that weights can be exchanged.
///
/// Shapes: input [N, in_channels, H, W], output [N, num_classes].
/// Throws: `c10::Error` for an unknown architecture.
/// Source: He et al., "Deep Residual Learning for Image Recognition", 2015, sections 4.1 and 4.2;
/// torchvision 0.26.
class ResNetImpl : public torch::nn::Module {
 public:
  explicit ResNetImpl(const ResNetOptions& options);

  torch::Tensor forward(torch::Tensor images);

 private:
  bool small_images_;
  bool channels_last_;
  torch::nn::Conv2d conv1_{nullptr};
  torch::nn::BatchNorm2d bn1_{nullptr};
  std::vector<torch::nn::Sequential> stages_;
  torch::nn::Linear fc_{nullptr};
};
TORCH_MODULE(ResNet);

}  // namespace example
