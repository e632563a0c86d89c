// SPDX-License-Identifier: BSD-3-Clause
#include "weights.h"

#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>

namespace example {
namespace {

constexpr int64_t kWidthOfHead = 64;

}  // namespace

std::string gpt_name(const std::string& hugging_face) {
  const std::string prefix = "transformer.";
  const auto name =
      hugging_face.starts_with(prefix) ? hugging_face.substr(prefix.size()) : hugging_face;
  const bool is_mask = name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
  return is_mask || name == "lm_head.weight" ? std::string() : name;
}

GptOptions shape_of(const std::filesystem::path& file, int64_t heads) {
  const auto header = lockstep::training::read_safetensors_header(file);
  auto shape = GptOptions().layers(0).width(0).vocabulary(0).positions(0);
  for (const auto& [theirs, tensor] : header.tensors) {
    const auto name = gpt_name(theirs);
    if (name.ends_with(".attn.c_attn.weight")) shape.layers(shape.layers() + 1);
    const bool is_table = tensor.shape.size() == 2;
    if (name == "wte.weight" && is_table) shape.vocabulary(tensor.shape[0]).width(tensor.shape[1]);
    if (name == "wpe.weight" && is_table) shape.positions(tensor.shape[0]);
  }
  TORCH_CHECK_VALUE(shape.layers() > 0 && shape.vocabulary() > 0 && shape.positions() > 0,
                    file.string(),
                    ": holds no GPT-2: wte.weight, wpe.weight and h.0.attn.c_attn.weight are "
                    "expected");
  shape.heads(heads > 0 ? heads : shape.width() / kWidthOfHead);
  return shape;
}

void load_gpt(Gpt& net, const std::filesystem::path& file) {
  using namespace lockstep::training;
  static_cast<void>(load_state(net, file, LoadOptions().rename(gpt_name)));
}

}  // namespace example
