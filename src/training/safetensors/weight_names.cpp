// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/training/weight_names.h>

#include <regex>

namespace lockstep::training {
namespace {

std::string one_more(const std::string& digits) {
  return std::to_string(std::stoul(digits) + 1);
}

}  // namespace

std::string torchvision_resnet_name(const std::string& hugging_face) {
  // At most three digits, so that every number can be counted on.
  static const std::regex kStem(
      R"((?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+))");
  static const std::regex kBlock(
      R"((?:resnet\.)?encoder\.stages\.(\d{1,3})\.layers\.(\d{1,3})\.(?:layer\.(\d{1,3})|shortcut)\.(convolution|normalization)\.(\w+))");
  static const std::regex kHead(R"(classifier\.1\.(\w+))");
  std::smatch part;
  if (std::regex_match(hugging_face, part, kStem)) {
    return (part[1] == "convolution" ? "conv1." : "bn1.") + part[2].str();
  }
  if (std::regex_match(hugging_face, part, kBlock)) {
    const bool is_convolution = part[4] == "convolution";
    const std::string inner = part[3].matched
                                  ? (is_convolution ? "conv" : "bn") + one_more(part[3])
                                  : std::string("downsample.") + (is_convolution ? "0" : "1");
    return "layer" + one_more(part[1]) + "." + part[2].str() + "." + inner + "." + part[5].str();
  }
  if (std::regex_match(hugging_face, part, kHead)) return "fc." + part[1].str();
  return hugging_face;
}

}  // namespace lockstep::training
