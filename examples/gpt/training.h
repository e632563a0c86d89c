// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"
#include "options.h"
#include "recipe.h"
#include "text.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstdint>

namespace example {

using Model = lockstep::DistributedDataParallel<Gpt>;

/// While one lives and `bf16` holds, matrices are multiplied in bfloat16. Parameters, gradients and
/// the loss stay in float. It surrounds forward alone: backward does as forward did.
class Autocast {
 public:
  Autocast(bool bf16, c10::Device device);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool bf16_;
  c10::DeviceType device_;
};

/// A step of training.
struct Trainer {
  const Options& options;
  c10::Device device;
  Gpt& net;
  Model& model;  // `net`, whose gradients are averaged over all ranks
  torch::optim::AdamW& optimizer;
  Gpt& average;  // of the weights of the last steps; `net` itself where there is none

  /// One step of the optimizer, step `step` of the run. Returns this rank's loss before it.
  /// Collective. Throws: `std::runtime_error` when the loss is no number any more.
  double run_step(BatchStream& batches, int64_t step);

 private:
  double run_backward(Batch& batch);
  void follow_with_average(int64_t step);
};

/// The mean loss of all ranks' windows. Leaves `net` in evaluation mode. Collective.
[[nodiscard]] double validation_loss(Gpt& net, Loader& windows, bool bf16, c10::Device device,
                                     lockstep::ProcessGroup& group);

}  // namespace example
