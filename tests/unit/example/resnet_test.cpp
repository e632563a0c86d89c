// SPDX-License-Identifier: BSD-3-Clause
#include "resnet.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace example {
namespace {

// What data/make_torchvision_reference.py wrote.
struct Reference {
  std::vector<std::pair<std::string, std::vector<int64_t>>> entries;
  std::map<std::string, std::vector<double>> outputs;
};

Reference read_reference(const std::string& arch) {
  const std::string path = std::string(EXAMPLE_TEST_DATA) + "/torchvision_" + arch + ".txt";
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  Reference result;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name.rfind("output.", 0) == 0) {
      for (double value = 0; words >> value;) result.outputs[name.substr(7)].push_back(value);
    } else {
      result.entries.emplace_back(name, std::vector<int64_t>{});
      for (int64_t size = 0; words >> size;) result.entries.back().second.push_back(size);
    }
  }
  return result;
}

// Parameters, then buffers, module by module: the order of Python's state_dict().
std::vector<std::pair<std::string, torch::Tensor>> state_of(const torch::nn::Module& model) {
  std::vector<std::pair<std::string, torch::Tensor>> result;
  for (const auto& module : model.named_modules()) {
    const std::string prefix = module.key().empty() ? "" : module.key() + ".";
    for (const auto& each : module.value()->named_parameters(false)) {
      result.emplace_back(prefix + each.key(), each.value());
    }
    for (const auto& each : module.value()->named_buffers(false)) {
      result.emplace_back(prefix + each.key(), each.value());
    }
  }
  return result;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The formula of data/make_torchvision_reference.py.
void fill(torch::nn::Module& model) {
  int64_t k = -1;
  for (auto& [name, tensor] : state_of(model)) {
    ++k;
    if (!tensor.is_floating_point()) continue;
    double bias = 0;
    double scale = 0.1;
    if (tensor.dim() > 1) {
      scale = std::sqrt(6.0 / static_cast<double>(tensor[0].numel()));
    } else if (ends_with(name, "weight") || ends_with(name, "running_var")) {
      bias = 1;
    }
    const auto i = torch::arange(tensor.numel(), torch::kDouble);
    tensor.copy_(
        (bias + scale * torch::sin(0.7 * static_cast<double>(k) + 1.3 * i)).view(tensor.sizes()));
  }
}

class TorchvisionModel : public testing::TestWithParam<std::string> {};

TEST_P(TorchvisionModel, HasTheSameNamesAndShapesInTheSameOrder) {
  const auto expected = read_reference(GetParam()).entries;
  ResNet model{ResNetOptions(GetParam())};
  const auto actual = state_of(*model);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].first, expected[i].first) << "entry " << i;
    EXPECT_EQ(actual[i].second.sizes().vec(), expected[i].second) << expected[i].first;
  }
}

TEST_P(TorchvisionModel, HasTheSameOutputs) {
  const torch::NoGradGuard no_grad;
  const auto expected = read_reference(GetParam()).outputs;
  ASSERT_EQ(expected.size(), 2U);
  const auto i = torch::arange(2 * 3 * 64 * 64, torch::kDouble);
  const auto images = torch::sin(0.01 * i * i).view({2, 3, 64, 64});
  for (const bool channels_last : {true, false}) {
    ResNet model{ResNetOptions(GetParam()).num_classes(5).channels_last(channels_last)};
    model->to(torch::kDouble);
    for (const auto& [mode, values] : expected) {
      fill(*model);
      model->train(mode == "train");
      const auto wanted = torch::tensor(values, torch::kDouble);
      const auto actual = model->forward(images).flatten();
      ASSERT_EQ(actual.sizes(), wanted.sizes());
      // The outputs are written with nine digits; the order of sums differs between machines, and
      // batch norm over two images enlarges that. A swapped layer or a missing activation changes
      // the outputs by their own size.
      const double tolerance = 1e-6 * wanted.abs().max().item<double>();
      EXPECT_LT((actual - wanted).abs().max().item<double>(), tolerance)
          << mode << ", channels_last " << channels_last << "\n"
          << actual << "\nwanted\n"
          << wanted;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TorchvisionModel, testing::Values("resnet18", "resnet34", "resnet50"),
                         [](const auto& each) { return each.param; });

TEST(ResNet, StartsWithKaimingWeightsAndIdentityBatchNorm) {
  torch::manual_seed(1);
  ResNet model{ResNetOptions("resnet18")};
  for (const auto& [name, tensor] : state_of(*model)) {
    if (tensor.dim() == 4) {
      const double fan_out = static_cast<double>(tensor.size(0) * tensor.size(2) * tensor.size(3));
      const double deviation = tensor.std().item<double>();
      // The error of a deviation estimated from n normal values is 1 / sqrt(2 n) of it; five of
      // those.
      const double tolerance = 5 / std::sqrt(2.0 * static_cast<double>(tensor.numel()));
      EXPECT_NEAR(deviation / std::sqrt(2 / fan_out), 1, tolerance) << name;
    } else if (name.find("bn") != std::string::npos && ends_with(name, "weight")) {
      EXPECT_TRUE(tensor.eq(1).all().item<bool>()) << name;
    } else if (name.find("bn") != std::string::npos && ends_with(name, "bias")) {
      EXPECT_TRUE(tensor.eq(0).all().item<bool>()) << name;
    }
  }
}

TEST(ResNet, SmallOnesHaveTheDepthOfTheirName) {
  for (const auto& [arch, depth] :
       {std::pair<const char*, int>{"resnet8", 8}, {"resnet14", 14}, {"resnet20", 20}}) {
    ResNet model{ResNetOptions(arch).in_channels(1).num_classes(10)};
    int layers = 0;
    for (const auto& each : model->named_parameters()) {
      const bool shortcut = each.key().find("downsample") != std::string::npos;
      if (each.value().dim() > 1 && !shortcut) ++layers;
    }
    EXPECT_EQ(layers, depth) << arch;
    EXPECT_EQ(model->forward(torch::randn({2, 1, 28, 28})).sizes(), (std::vector<int64_t>{2, 10}));
    EXPECT_EQ(model->named_parameters()["layer3.0.conv1.weight"].sizes(),
              (std::vector<int64_t>{64, 32, 3, 3}));
  }
}

TEST(ResNet, EveryParameterGetsAGradient) {
  for (const auto& arch : resnet_architectures()) {
    ResNet model{ResNetOptions(arch).in_channels(1).num_classes(10)};
    torch::cross_entropy_loss(model->forward(torch::randn({2, 1, 32, 32})), torch::tensor({3, 9}))
        .backward();
    for (const auto& each : model->named_parameters()) {
      ASSERT_TRUE(each.value().grad().defined()) << arch << " " << each.key();
    }
  }
}

TEST(ResNet, UnknownArchitectureIsAnError) {
  EXPECT_THROW(ResNet(ResNetOptions("resnet9")), c10::ValueError);
}

}  // namespace
}  // namespace example
