// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/load_state.h>

#include <string>

#include "resnet.h"

namespace example {

/// Loads weights that another program has saved as safetensors, with the names of torchvision (timm
/// has the same ones) or Hugging Face. They may be for other classes: then the last layer keeps the
/// values that it has. Throws where the model needs anything else that the file lacks.
lockstep::training::LoadedState load_resnet(ResNet& net, const std::string& path);

}  // namespace example
