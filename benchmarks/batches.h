// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <string>

/// What a rank trains on in each step of ddp_step.
namespace bench {

struct Batch {
  torch::Tensor data;
  torch::Tensor labels;
};

/// The batch of a step.
using Batches = std::function<Batch(std::int64_t step)>;

/// A random batch, the same in each step: for the time of a step, the values do not matter.
[[nodiscard]] Batches one_random_batch(const std::string& arch, std::int64_t size, int rank);

/// Fashion-MNIST's training images, filled up to 3x32x32, in an order that `seed` decides: all
/// ranks together see each image once before any image comes again.
[[nodiscard]] Batches fashion_mnist_batches(const std::string& folder, std::uint64_t seed,
                                            std::int64_t size, int rank, int ranks);

}  // namespace bench
