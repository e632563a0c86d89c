// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of the way of a sample: which samples this rank sees, in which order. After it:
// data_loader cuts batches.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randperm.h>
#include <lockstep/data/distributed_sampler.h>

#include <limits>
#include <utility>

namespace lockstep::data {

DistributedSampler::DistributedSampler(std::size_t dataset_size, int world_size, int rank,
                                       DistributedSamplerOptions options)
    : dataset_size_(dataset_size),
      world_size_(static_cast<std::size_t>(world_size)),
      rank_(static_cast<std::size_t>(rank)),
      options_(std::move(options)) {
  constexpr auto kLargest = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max() / 2);
  TORCH_CHECK(dataset_size > 0 && dataset_size <= kLargest, "DistributedSampler: dataset_size is ",
              dataset_size, "; it must be from 1 to ", kLargest);
  TORCH_CHECK(world_size > 0, "DistributedSampler: world_size is ", world_size,
              "; it must be at least 1");
  TORCH_CHECK(rank >= 0 && rank < world_size, "DistributedSampler: rank is ", rank,
              "; it must be from 0 to ", world_size - 1, " in a world of ", world_size);
}

void DistributedSampler::set_epoch(std::int64_t epoch) {
  TORCH_CHECK(epoch >= 0, "DistributedSampler: epoch is ", epoch, "; it must not be negative");
  epoch_ = epoch;
}

std::size_t DistributedSampler::total_size() const noexcept {
  switch (options_.remainder()) {
    case Remainder::Drop:
      return dataset_size_ / world_size_ * world_size_;
    case Remainder::Exact:
      return dataset_size_;
    case Remainder::Pad:
      break;
  }
  return (dataset_size_ + world_size_ - 1) / world_size_ * world_size_;
}

std::size_t DistributedSampler::size() const noexcept {
  const auto total = total_size();
  return rank_ < total ? (total - rank_ + world_size_ - 1) / world_size_ : 0;
}

std::vector<std::int64_t> DistributedSampler::indices() const {
  at::Tensor order;
  if (options_.shuffle()) {
    auto generator =
        at::detail::createCPUGenerator(options_.seed() + static_cast<std::uint64_t>(epoch_));
    order = at::randperm(static_cast<std::int64_t>(dataset_size_), generator, at::kLong);
  }
  std::vector<std::int64_t> mine;
  mine.reserve(size());
  const std::int64_t* shuffled = order.defined() ? order.const_data_ptr<std::int64_t>() : nullptr;
  for (std::size_t position = rank_; position < total_size(); position += world_size_) {
    const auto wrapped = position % dataset_size_;
    mine.push_back(shuffled != nullptr ? shuffled[wrapped] : static_cast<std::int64_t>(wrapped));
  }
  return mine;
}

}  // namespace lockstep::data
