// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/sampler.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

/// What a loader asks a sampler before the first epoch, whoever wrote the sampler.
namespace lockstep::data::detail {

/// Stands in place of a sampler for iterable datasets.
struct NoSampler {};

/// Indices in a whole epoch, also where the epoch shall begin in the middle.
template <class Sampler>
std::size_t epoch_size(const Sampler& sampler) {
  if constexpr (requires { sampler.epoch_size(); }) {
    return static_cast<std::size_t>(sampler.epoch_size());
  } else {
    return static_cast<std::size_t>(sampler.size());
  }
}

/// The most indices that a batch has; 0 where the sampler gives no batches.
template <class Sampler>
std::size_t largest_batch(const Sampler& sampler) {
  if constexpr (!GivesBatches<Sampler>) {
    return 0;
  } else if constexpr (requires { sampler.largest_batch(); }) {
    return static_cast<std::size_t>(sampler.largest_batch());
  } else {
    std::size_t largest = 1;
    const auto take = [&](const std::vector<std::int64_t>& batch) {
      largest = std::max(largest, batch.size());
    };
    if constexpr (BatchAccessSampler<Sampler>) {
      for (std::size_t number = 0; number < sampler.size(); ++number) take(sampler.batch(number));
    } else {
      for (const auto& batch : sampler.batches()) take(batch);
    }
    return largest;
  }
}

}  // namespace lockstep::data::detail
