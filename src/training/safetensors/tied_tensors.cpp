// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/tied_tensors.h"

#include <lockstep/training/safetensors.h>

#include <iterator>

namespace lockstep::training {

void save_with_tied(const std::filesystem::path& path, std::map<std::string, at::Tensor> tensors,
                    std::map<std::string, std::string> metadata) {
  metadata.emplace("format", "pt");
  std::map<const void*, std::string> first;
  for (auto one = tensors.begin(); one != tensors.end();) {
    const auto [other, is_new] = first.emplace(one->second.unsafeGetTensorImpl(), one->first);
    if (!is_new) metadata.emplace(one->first, other->second);
    one = is_new ? std::next(one) : tensors.erase(one);
  }
  save_safetensors(path, tensors, metadata);
}

}  // namespace lockstep::training
