// SPDX-License-Identifier: BSD-3-Clause
#include "weights.h"

#include <c10/util/Exception.h>
#include <lockstep/training/safetensors_header.h>
#include <lockstep/training/weight_names.h>

namespace example {

lockstep::training::LoadedState load_resnet(ResNet& net, const std::string& path) {
  using namespace lockstep::training;
  const auto own = state_of(*net);
  const auto header = read_safetensors_header(path);
  const auto rename = [&](const std::string& name) {
    auto ours = torchvision_resnet_name(name);
    const auto target = own.find(ours);
    const bool is_other_head = ours.starts_with("fc.") && target != own.end() &&
                               target->second.sizes() != header.tensors.at(name).shape;
    return is_other_head ? std::string() : ours;
  };
  auto loaded = load_state(net, path, LoadOptions().strict(false).rename(rename));
  for (const auto& name : loaded.missing) {
    TORCH_CHECK(name.starts_with("fc."), path, ": has no '", name, "', which this model needs");
  }
  return loaded;
}

}  // namespace example
