// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <string>

namespace lockstep::training {

/// For `LoadOptions::rename`: torchvision's name, which timm uses too, for a name of Hugging Face's
/// `ResNetForImageClassification` or `ResNetModel`: `layer1.0.conv2.weight` for
/// `resnet.encoder.stages.0.layers.0.layer.1.convolution.weight`. Any other name stays as it is.
///
/// Thread-safety: any thread.
[[nodiscard]] LOCKSTEP_API std::string torchvision_resnet_name(const std::string& hugging_face);

}  // namespace lockstep::training
