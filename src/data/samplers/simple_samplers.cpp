// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of a sample's path: samplers whose order is a formula of the position.
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/random_sampler.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samplers/sequential_sampler.h>
#include <lockstep/data/samplers/subset_sampler.h>

#include <utility>

#include "data/samplers/mix.h"

namespace lockstep::data {

SequentialSampler::SequentialSampler(std::size_t dataset_size, int world_size, int rank,
                                     Remainder remainder)
    : EpochSampler(
          {"SequentialSampler", dataset_size, dataset_size, world_size, rank, 0, remainder}) {
  set_shuffled(false);
  set_fingerprint(OrderFingerprint("sequential").add(0).add(dataset_size).value());
}

std::int64_t SequentialSampler::at(std::uint64_t position) const {
  return static_cast<std::int64_t>(position);
}

RandomSampler::RandomSampler(std::size_t dataset_size, int world_size, int rank,
                             const RandomSamplerOptions& options)
    : EpochSampler({"RandomSampler", dataset_size,
                    options.num_samples() == 0 ? dataset_size : options.num_samples(), world_size,
                    rank, options.seed(), options.remainder()}),
      replacement_(options.replacement()),
      first_(dataset_size, options.seed(), 0) {
  set_fingerprint(OrderFingerprint("random")
                      .add(replacement_ ? 1 : 0)
                      .add(dataset_size)
                      .add(order_size())
                      .value());
}

void RandomSampler::epoch_changed() {
  first_ = detail::KeyedPermutation(dataset_size(), seed(), epoch());
}

std::int64_t RandomSampler::at(std::uint64_t position) const {
  const auto size = static_cast<std::uint64_t>(dataset_size());
  if (replacement_) {
    // Negative numbers: those from 0 on are for what a dataset draws for its samples.
    SampleRandom random(seed(), epoch(), -1 - static_cast<std::int64_t>(position));
    return random.below(static_cast<std::int64_t>(size));
  }
  if (position < size) return static_cast<std::int64_t>(first_(position));
  const detail::KeyedPermutation again(size, seed(), epoch(), position / size);
  return static_cast<std::int64_t>(again(position % size));
}

void RandomSampler::fill(std::span<std::int64_t> indices, std::uint64_t position,
                         std::uint64_t step) const {
  const bool is_first_time = position + (indices.size() - 1) * step < dataset_size();
  if (replacement_ || !is_first_time) return EpochSampler::fill(indices, position, step);
  first_.fill(indices, position, step);
}

SubsetSampler::SubsetSampler(std::vector<std::int64_t> indices, std::size_t dataset_size,
                             int world_size, int rank, const SubsetSamplerOptions& options)
    : EpochSampler({"SubsetSampler", dataset_size, indices.size(), world_size, rank, options.seed(),
                    options.remainder()}),
      indices_(std::make_shared<const std::vector<std::int64_t>>(std::move(indices))),
      shuffle_(options.shuffle()),
      order_(indices_->size(), options.seed(), 0) {
  set_shuffled(shuffle_);
  OrderFingerprint fingerprint("subset");
  fingerprint.add(shuffle_ ? 1 : 0).add(dataset_size);
  for (std::size_t i = 0; i < indices_->size(); ++i) {
    const auto index = (*indices_)[i];
    TORCH_CHECK(index >= 0 && static_cast<std::size_t>(index) < dataset_size,
                "SubsetSampler: indices[", i, "] is ", index, "; it must be from 0 to ",
                dataset_size - 1);
    fingerprint.add(static_cast<std::uint64_t>(index));
  }
  set_fingerprint(fingerprint.value());
}

void SubsetSampler::epoch_changed() {
  order_ = detail::KeyedPermutation(indices_->size(), seed(), epoch());
}

std::int64_t SubsetSampler::at(std::uint64_t position) const {
  return (*indices_)[shuffle_ ? order_(position) : position];
}

void SubsetSampler::fill(std::span<std::int64_t> indices, std::uint64_t position,
                         std::uint64_t step) const {
  if (!shuffle_) return EpochSampler::fill(indices, position, step);
  order_.fill(indices, position, step);
  for (auto& index : indices) index = (*indices_)[static_cast<std::size_t>(index)];
}

}  // namespace lockstep::data
