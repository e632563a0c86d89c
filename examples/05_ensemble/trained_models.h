// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "resnet.h"

#include <lockstep/lockstep.h>

#include <cstdint>
#include <string>
#include <vector>

namespace example {

/// What to serve, and how to come by it.
struct ModelOptions {
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string arch = "resnet8";
  std::string folder = "ensemble_models";  // where models lie that this program trains
  std::vector<std::string> models;         // files; empty: this program trains some
  std::int64_t images = 9600;              // to train each with
  int count = 3;                           // of models to train
};

/// Test images, and images to train with.
[[nodiscard]] lockstep::data::IdxDataset fashion_mnist(const std::string& folder, bool is_training);

/// A network for these images, with weights that are drawn.
[[nodiscard]] ResNet make_net(const std::string& arch);

/// The files of the models: those that the options name, or those of the folder. What the folder
/// lacks is trained first, each model with another seed.
[[nodiscard]] std::vector<std::string> find_or_train_models(const ModelOptions& options);

}  // namespace example
