// SPDX-License-Identifier: BSD-3-Clause
#include "resnet.h"

#include <algorithm>
#include <utility>

namespace example {
namespace {

namespace nn = torch::nn;

struct Architecture {
  std::string name;
  bool bottleneck;
  bool small_images;
  std::vector<int64_t> blocks;  // a stage
};

const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> all = {
      {"resnet8", false, true, {1, 1, 1}},      {"resnet14", false, true, {2, 2, 2}},
      {"resnet20", false, true, {3, 3, 3}},     {"resnet18", false, false, {2, 2, 2, 2}},
      {"resnet34", false, false, {3, 4, 6, 3}}, {"resnet50", true, false, {3, 4, 6, 3}},
  };
  return all;
}

const Architecture& find_architecture(const std::string& name) {
  const auto& all = architectures();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.name == name; });
  TORCH_CHECK_VALUE(found != all.end(), "unknown architecture '", name, "'");
  return *found;
}

nn::Conv2d convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride) {
  return nn::Conv2d(
      nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false));
}

// Brings the shortcut to the shape of the branch, where they differ.
nn::Sequential projection(int64_t in, int64_t out, int64_t stride) {
  return nn::Sequential(convolution(in, out, 1, stride), nn::BatchNorm2d(out));
}

// Two 3x3 convolutions.
struct BasicBlockImpl : nn::Module {
  static constexpr int64_t kExpansion = 1;

  BasicBlockImpl(int64_t in, int64_t width, int64_t stride) {
    conv1 = register_module("conv1", convolution(in, width, 3, stride));
    bn1 = register_module("bn1", nn::BatchNorm2d(width));
    conv2 = register_module("conv2", convolution(width, width, 3, 1));
    bn2 = register_module("bn2", nn::BatchNorm2d(width));
    if (stride != 1 || in != width) {
      downsample = register_module("downsample", projection(in, width, stride));
    }
  }

  torch::Tensor forward(const torch::Tensor& x) {
    auto y = bn1(conv1(x)).relu_();
    y = bn2(conv2(y));
    return y.add_(downsample ? downsample->forward(x) : x).relu_();
  }

  nn::Conv2d conv1{nullptr}, conv2{nullptr};
  nn::BatchNorm2d bn1{nullptr}, bn2{nullptr};
  nn::Sequential downsample{nullptr};
};
TORCH_MODULE(BasicBlock);

// 1x1 to `width` channels, 3x3, and 1x1 to four times as many. The stride is on the 3x3, as in
// torchvision.
struct BottleneckImpl : nn::Module {
  static constexpr int64_t kExpansion = 4;

  BottleneckImpl(int64_t in, int64_t width, int64_t stride) {
    const int64_t out = kExpansion * width;
    conv1 = register_module("conv1", convolution(in, width, 1, 1));
    bn1 = register_module("bn1", nn::BatchNorm2d(width));
    conv2 = register_module("conv2", convolution(width, width, 3, stride));
    bn2 = register_module("bn2", nn::BatchNorm2d(width));
    conv3 = register_module("conv3", convolution(width, out, 1, 1));
    bn3 = register_module("bn3", nn::BatchNorm2d(out));
    if (stride != 1 || in != out) {
      downsample = register_module("downsample", projection(in, out, stride));
    }
  }

  torch::Tensor forward(const torch::Tensor& x) {
    auto y = bn1(conv1(x)).relu_();
    y = bn2(conv2(y)).relu_();
    y = bn3(conv3(y));
    return y.add_(downsample ? downsample->forward(x) : x).relu_();
  }

  nn::Conv2d conv1{nullptr}, conv2{nullptr}, conv3{nullptr};
  nn::BatchNorm2d bn1{nullptr}, bn2{nullptr}, bn3{nullptr};
  nn::Sequential downsample{nullptr};
};
TORCH_MODULE(Bottleneck);

// Blocks of one width; the first of them changes size and channels. Updates `channels` to those of
// the output.
template <typename Block>
nn::Sequential make_stage(int64_t& channels, int64_t width, int64_t blocks, int64_t stride) {
  nn::Sequential stage;
  for (int64_t i = 0; i < blocks; ++i) {
    stage->push_back(Block(channels, width, i == 0 ? stride : 1));
    channels = width * Block::ContainedType::kExpansion;
  }
  return stage;
}

// With one channel, contiguous memory counts as both layouts and the kernels take it for
// channels-first; so the strides are written out. Copies only where there are several channels.
torch::Tensor to_channels_last(const torch::Tensor& images) {
  if (images.size(1) != 1) return images.contiguous(at::MemoryFormat::ChannelsLast);
  return images.contiguous()
      .view({images.size(0), images.size(2), images.size(3), 1})
      .permute({0, 3, 1, 2});
}

}  // namespace

const std::vector<std::string>& resnet_architectures() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const auto& each : architectures()) result.push_back(each.name);
    return result;
  }();
  return names;
}

ResNetImpl::ResNetImpl(const ResNetOptions& options) : channels_last_(options.channels_last()) {
  const Architecture& arch = find_architecture(options.arch());
  small_images_ = arch.small_images;

  int64_t width = small_images_ ? 16 : 64;
  int64_t channels = width;
  const auto stem = small_images_ ? convolution(options.in_channels(), width, 3, 1)
                                  : convolution(options.in_channels(), width, 7, 2);
  conv1_ = register_module("conv1", stem);
  bn1_ = register_module("bn1", nn::BatchNorm2d(width));
  for (std::size_t i = 0; i < arch.blocks.size(); ++i, width *= 2) {
    const int64_t stride = i == 0 ? 1 : 2;
    auto stage = arch.bottleneck ? make_stage<Bottleneck>(channels, width, arch.blocks[i], stride)
                                 : make_stage<BasicBlock>(channels, width, arch.blocks[i], stride);
    stages_.push_back(register_module("layer" + std::to_string(i + 1), std::move(stage)));
  }
  fc_ = register_module("fc", nn::Linear(channels, options.num_classes()));

  // Batch norm starts as the identity and the linear layer with LibTorch's default, as in
  // torchvision.
  for (auto& module : modules(/*include_self=*/false)) {
    if (auto* conv = module->as<nn::Conv2d>()) {
      nn::init::kaiming_normal_(conv->weight, 0.0, torch::kFanOut, torch::kReLU);
    }
  }
}

torch::Tensor ResNetImpl::forward(torch::Tensor images) {
  if (channels_last_ && images.device().is_cpu()) images = to_channels_last(images);
  auto x = bn1_(conv1_(images)).relu_();
  if (!small_images_) x = torch::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  for (auto& stage : stages_) x = stage->forward(x);
  return fc_(x.mean({2, 3}));
}

}  // namespace example
