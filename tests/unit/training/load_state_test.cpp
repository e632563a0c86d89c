// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>
#include <lockstep/training/weight_names.h>
#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;
namespace nn = torch::nn;

struct TinyImpl : nn::Module {
  TinyImpl() {
    register_module("conv", conv);
    register_module("bn", bn);
    register_module("fc", fc);
  }
  nn::Conv2d conv{nn::Conv2dOptions(1, 2, 3)};
  nn::BatchNorm2d bn{2};
  nn::Linear fc{2, 3};
};
TORCH_MODULE(Tiny);

struct HeadImpl : nn::Module {
  explicit HeadImpl(const torch::Tensor& weight) { register_parameter("weight", weight); }
};
struct TiedImpl : nn::Module {
  TiedImpl() {
    register_module("embed", embed);
    register_module("head", std::make_shared<HeadImpl>(embed->weight));
  }
  nn::Embedding embed{5, 3};
};
TORCH_MODULE(Tied);

void expect_same(const nn::Module& a, const nn::Module& b) {
  const auto left = state_of(a);
  const auto right = state_of(b);
  ASSERT_EQ(left.size(), right.size());
  for (const auto& [name, tensor] : left) EXPECT_TRUE(tensor.equal(right.at(name))) << name;
}

TEST(LoadState, BringsBackParametersAndBuffersInPlace) {
  const TemporaryFolder folder;
  Tiny net;
  net->bn->running_mean.fill_(4);
  net->bn->num_batches_tracked.fill_(17);
  save_state(net, folder / "a.safetensors", {{"note", "x"}});
  Tiny other;
  const void* before = other->fc->weight.const_data_ptr();
  const auto found = load_state(other, folder / "a.safetensors");
  EXPECT_TRUE(found.missing.empty() && found.unexpected.empty());
  expect_same(*net, *other);
  EXPECT_EQ(other->fc->weight.const_data_ptr(), before);
  EXPECT_TRUE(other->fc->weight.requires_grad() && other->fc->weight.is_leaf());
  EXPECT_EQ(other->bn->num_batches_tracked.item<std::int64_t>(), 17);
  EXPECT_EQ(read_safetensors_header(folder / "a.safetensors").metadata,
            (std::map<std::string, std::string>{{"format", "pt"}, {"note", "x"}}));
}

TEST(LoadState, StrictNamesWhatDiffersAndLoadsNothing) {
  const TemporaryFolder folder;
  Tiny net;
  auto state = state_of(*net);
  state.erase("fc.bias");
  state["extra"] = torch::ones({1});
  save_safetensors(folder / "a", state);
  Tiny other;
  Tiny as_before;
  save_state(other, folder / "before");
  load_state(as_before, folder / "before");
  expect_refusal([&] { load_state(other, folder / "a"); }, "Missing in the file: 'fc.bias'.");
  expect_refusal([&] { load_state(other, folder / "a"); }, "Not in the module: 'extra'.");
  expect_same(*other, *as_before);
  const auto found = load_state(other, folder / "a", LoadOptions().strict(false));
  EXPECT_EQ(found.missing, std::vector<std::string>{"fc.bias"});
  EXPECT_EQ(found.unexpected, std::vector<std::string>{"extra"});
  EXPECT_TRUE(other->fc->weight.equal(net->fc->weight));
  EXPECT_TRUE(other->fc->bias.equal(as_before->fc->bias));
}

TEST(LoadState, ManyNamesAreListedInPart) {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", {});
  Tiny net;
  expect_refusal([&] { load_state(net, folder / "a"); },
                 "'bn.bias', 'bn.num_batches_tracked', 'bn.running_mean', 'bn.running_var', "
                 "'bn.weight' and 4 more");
}

TEST(LoadState, ShapesAndDtypesThatDoNotFitAreNamedTogether) {
  const TemporaryFolder folder;
  Tiny net;
  auto state = state_of(*net);
  state["fc.weight"] = torch::ones({3, 5});
  state["bn.num_batches_tracked"] = torch::tensor(1.5);
  save_safetensors(folder / "a", state);
  const auto before = net->conv->weight.clone();
  torch::NoGradGuard no_gradients;
  net->conv->weight.add_(1);
  expect_refusal(
      [&] { load_state(net, folder / "a"); },
      "'bn.num_batches_tracked' is Float in the file and Long in the module, 'fc.weight' "
      "has shape [3, 5] in the file and [3, 2] in the module; nothing was loaded");
  EXPECT_TRUE(net->conv->weight.equal(before + 1));
}

TEST(LoadState, NumbersOfAnotherWidthAreConverted) {
  const TemporaryFolder folder;
  Tiny net;
  auto state = state_of(*net);
  for (auto& [name, tensor] : state) {
    if (tensor.is_floating_point()) tensor = tensor.to(torch::kDouble);
  }
  save_safetensors(folder / "a", state);
  Tiny other;
  load_state(other, folder / "a");
  EXPECT_EQ(other->fc->weight.scalar_type(), torch::kFloat);
  expect_same(*net, *other);
}

TEST(LoadState, AnIntegerThatMayNotFitIsRefused) {
  const TemporaryFolder folder;
  Tiny net;
  auto state = state_of(*net);
  state["bn.num_batches_tracked"] = torch::tensor(7, torch::kInt);
  save_safetensors(folder / "a", state);
  load_state(net, folder / "a");
  EXPECT_EQ(net->bn->num_batches_tracked.item<std::int64_t>(), 7);
  state["bn.num_batches_tracked"] = torch::ones({}, torch::kUInt64);
  save_safetensors(folder / "a", state);
  expect_refusal([&] { load_state(net, folder / "a"); }, "is UInt64 in the file and Long");
}

TEST(LoadState, TakesAPartByItsPrefixAndNewNames) {
  const TemporaryFolder folder;
  Tiny net;
  std::map<std::string, torch::Tensor> state{{"head.weight", torch::ones({7})},
                                             {"backbone.junk", torch::ones({7})}};
  for (const auto& [name, tensor] : state_of(*net)) state["backbone.old_" + name] = tensor;
  save_safetensors(folder / "a", state);
  Tiny other;
  const auto rename = [](const std::string& name) {
    return name == "junk" ? std::string() : name.substr(4);
  };
  const auto found =
      load_state(other, folder / "a", LoadOptions().prefix("backbone.").rename(rename));
  EXPECT_TRUE(found.missing.empty() && found.unexpected.empty());
  expect_same(*net, *other);
  expect_refusal(
      [&] {
        load_state(other, folder / "a",
                   LoadOptions().rename([](const std::string&) { return std::string("x"); }));
      },
      "would both be 'x'");
}

TEST(LoadState, TiedWeightsAreWrittenOnceAndLoadedFromEitherName) {
  const TemporaryFolder folder;
  Tied net;
  save_state(net, folder / "a");
  const auto header = read_safetensors_header(folder / "a");
  EXPECT_EQ(header.tensors.size(), 1U);
  EXPECT_EQ(header.metadata.at("head.weight"), "embed.weight");
  Tied other;
  load_state(other, folder / "a");
  expect_same(*net, *other);
  // Under the other name; under both.
  const auto weight = torch::rand({5, 3});
  save_safetensors(folder / "b", {{"head.weight", weight}});
  load_state(other, folder / "b");
  EXPECT_TRUE(other->embed->weight.equal(weight));
  save_safetensors(folder / "c", {{"embed.weight", weight}, {"head.weight", weight}});
  load_state(other, folder / "c");
  save_safetensors(folder / "d", {{"embed.weight", weight}, {"head.weight", weight + 1}});
  expect_refusal([&] { load_state(other, folder / "d"); }, "are one tensor in the module");
  EXPECT_TRUE(other->embed->weight.equal(weight));
}

TEST(WeightNames, ResNetsOfHuggingFaceHaveTorchvisionsNames) {
  const std::map<std::string, std::string> pairs{
      {"resnet.embedder.embedder.convolution.weight", "conv1.weight"},
      {"embedder.embedder.normalization.running_var", "bn1.running_var"},
      {"resnet.encoder.stages.0.layers.0.layer.1.convolution.weight", "layer1.0.conv2.weight"},
      {"resnet.encoder.stages.3.layers.11.layer.2.normalization.bias", "layer4.11.bn3.bias"},
      {"encoder.stages.1.layers.0.shortcut.convolution.weight", "layer2.0.downsample.0.weight"},
      {"resnet.encoder.stages.1.layers.0.shortcut.normalization.num_batches_tracked",
       "layer2.0.downsample.1.num_batches_tracked"},
      {"classifier.1.bias", "fc.bias"},
      {"layer1.0.conv1.weight", "layer1.0.conv1.weight"},
      {"resnet.encoder.stages.9999.layers.0.layer.0.convolution.weight",
       "resnet.encoder.stages.9999.layers.0.layer.0.convolution.weight"},
      {"", ""}};
  for (const auto& [name, expected] : pairs) EXPECT_EQ(torchvision_resnet_name(name), expected);
}

}  // namespace
}  // namespace lockstep::training
