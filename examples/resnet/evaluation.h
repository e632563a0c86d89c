// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "datasets.h"
#include "resnet.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

namespace example {

/// Loss and accuracy over the images seen so far.
struct Results {
  lockstep::training::Mean loss;
  lockstep::training::Accuracy accuracy;

  /// Adds a batch, whose mean loss is `batch_loss`.
  void add(double batch_loss, const torch::Tensor& scores, const torch::Tensor& target);
};

/// The results of all ranks together. Collective.
[[nodiscard]] Results over_all_ranks(const Results& results, lockstep::ProcessGroup& group);

/// Tests `net` on this rank's share of the images and leaves it in evaluation mode.
[[nodiscard]] Results evaluate(ResNet& net, lockstep::data::DataLoader<ImageDataset>& images,
                               c10::Device device);

}  // namespace example
