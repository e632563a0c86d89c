// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"
#include "options.h"
#include "recipe.h"
#include "text.h"

#include <lockstep/lockstep.h>
#include <lockstep/optim/averaged_model.h>
#include <torch/torch.h>

#include <cstdint>
#include <memory>

namespace example {

using Model = lockstep::DistributedDataParallel<Gpt>;

/// A step of training.
struct Trainer {
  const Options& options;
  c10::Device device;
  Gpt& net;
  Model& model;  // `net`, whose gradients are averaged over all ranks
  lockstep::optim::AdamW& optimizer;
  lockstep::optim::lr_scheduler::LRScheduler& schedule;
  lockstep::optim::AveragedModel* average;  // of the weights of the last steps; null: none

  /// One step of the optimizer, step `step` of the run. Returns this rank's loss before it.
  /// Collective. Throws: `std::runtime_error` when the loss is no number any more.
  double run_step(BatchStream& batches, int64_t step);

 private:
  double run_backward(Batch& batch);
};

/// An average of the weights that forgets as --average says; sooner in the first steps, since it
/// would else keep what was drawn. Null where there is to be none.
[[nodiscard]] std::unique_ptr<lockstep::optim::AveragedModel> make_average(Gpt& net, double decay);

/// The mean loss of all ranks' windows. Leaves `net` in evaluation mode. Collective.
[[nodiscard]] double validation_loss(Gpt& net, Loader& windows, bool bf16, c10::Device device,
                                     lockstep::ProcessGroup& group);

}  // namespace example
