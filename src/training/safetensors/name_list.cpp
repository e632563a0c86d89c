// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/name_list.h"

namespace lockstep::training {

std::string list_of(const std::vector<std::string>& texts) {
  std::string all;
  for (std::size_t i = 0; i < texts.size() && i < kListedNames; ++i) {
    all += (all.empty() ? "" : ", ") + texts[i];
  }
  if (texts.size() <= kListedNames) return all;
  return all + " and " + std::to_string(texts.size() - kListedNames) + " more";
}

std::string text_of(c10::IntArrayRef shape) {
  std::string text;
  for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

}  // namespace lockstep::training
