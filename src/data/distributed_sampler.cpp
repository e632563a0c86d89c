// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of the way of a sample: which samples this rank sees, in which order. After it:
// data_loader cuts batches.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randperm.h>
#include <lockstep/data/distributed_sampler.h>

#include <utility>
#include <vector>

#include "data/lazy_order.h"
#include "data/mix.h"

namespace lockstep::data {
namespace {

std::vector<std::int64_t> pytorch_order(std::size_t size, std::uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  const auto order = at::randperm(static_cast<std::int64_t>(size), generator, at::kLong);
  const auto* values = order.const_data_ptr<std::int64_t>();
  return {values, values + size};
}

}  // namespace

DistributedSampler::DistributedSampler(std::size_t dataset_size, int world_size, int rank,
                                       DistributedSamplerOptions options)
    : EpochSampler({"DistributedSampler", dataset_size, dataset_size, world_size, rank,
                    options.seed(), options.remainder()}),
      options_(std::move(options)) {
  set_shuffled(options_.shuffle());
  set_fingerprint(OrderFingerprint(options_.shuffle() ? "shuffled" : "sequential")
                      .add(options_.shuffle() ? static_cast<std::uint64_t>(options_.order()) : 0)
                      .add(dataset_size)
                      .value());
  DistributedSampler::epoch_changed();
}

void DistributedSampler::epoch_changed() {
  if (!options_.shuffle()) return;
  if (options_.order() == ShuffleOrder::Keyed) {
    keyed_.emplace(dataset_size(), seed(), epoch());
    return;
  }
  pytorch_ = std::make_shared<detail::LazyOrder>(
      [size = dataset_size(), generator_seed = seed() + static_cast<std::uint64_t>(epoch())] {
        return pytorch_order(size, generator_seed);
      });
}

std::int64_t DistributedSampler::at(std::uint64_t position) const {
  if (keyed_) return static_cast<std::int64_t>((*keyed_)(position));
  if (pytorch_ != nullptr) return pytorch_->at(position);
  return static_cast<std::int64_t>(position);
}

void DistributedSampler::fill(std::span<std::int64_t> indices, std::uint64_t position,
                              std::uint64_t step) const {
  if (keyed_) return keyed_->fill(indices, position, step);
  if (pytorch_ != nullptr) return pytorch_->fill(indices, position, step);
  EpochSampler::fill(indices, position, step);
}

}  // namespace lockstep::data
