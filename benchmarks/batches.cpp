// SPDX-License-Identifier: BSD-3-Clause
#include "batches.h"

#include <lockstep/data/readers/idx_dataset.h>

#include <memory>

#include "models.h"

namespace bench {
namespace {

constexpr std::int64_t kImageSide = 32;

/// Images of one channel and fewer pixels as float {N, 3, 32, 32}.
torch::Tensor fill_up(const torch::Tensor& images) {
  const auto margin = (kImageSide - images.size(-1)) / 2;
  const auto values = images.to(torch::kFloat).div(255).sub(0.5).unsqueeze(1);
  return torch::constant_pad_nd(values, {margin, margin, margin, margin}, -0.5)
      .expand({-1, 3, -1, -1})
      .contiguous();
}

}  // namespace

Batches one_random_batch(const std::string& arch, std::int64_t size, int rank) {
  torch::manual_seed(static_cast<std::uint64_t>(rank));
  const auto data = arch == "transformer" ? torch::randint(kWords, {kSentence, size}, torch::kLong)
                                          : torch::randn({size, 3, 32, 32});
  const Batch batch{data, torch::randint(kClasses, {size}, torch::kLong)};
  return [batch](std::int64_t) { return batch; };
}

Batches fashion_mnist_batches(const std::string& folder, std::uint64_t seed, std::int64_t size,
                              int rank, int ranks) {
  const auto images = std::make_shared<const lockstep::data::IdxDataset>(
      folder + "/train-images-idx3-ubyte.gz", folder + "/train-labels-idx1-ubyte.gz");
  torch::manual_seed(seed);
  const auto count = static_cast<std::int64_t>(images->size());
  const auto order = torch::randperm(count);
  const auto steps = count / (size * ranks);
  TORCH_CHECK_VALUE(steps > 0, "a batch of all ranks has more images than ", folder);
  return [=](std::int64_t step) -> Batch {
    const auto chosen = order.narrow(0, (step % steps * ranks + rank) * size, size);
    return {fill_up(images->images().index_select(0, chosen)),
            images->labels().index_select(0, chosen).to(torch::kLong)};
  };
}

}  // namespace bench
