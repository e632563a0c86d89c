// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "datasets.h"
#include "progress.h"
#include "resnet.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

namespace example {

/// Adds a batch, whose mean loss is `loss`, to `totals`.
void add_batch(Totals& totals, double loss, const torch::Tensor& scores,
               const torch::Tensor& target);

/// What all ranks have seen, if each has seen as much as this one.
[[nodiscard]] Totals times(Totals totals, int ranks);

/// The sums of all ranks. Collective.
[[nodiscard]] Totals sum_over_ranks(const Totals& totals, lockstep::ProcessGroup& group);

/// Tests `net` on this rank's share of the images and leaves it in evaluation mode.
[[nodiscard]] Totals evaluate(ResNet& net, lockstep::data::DataLoader<ImageDataset>& images,
                              c10::Device device);

}  // namespace example
