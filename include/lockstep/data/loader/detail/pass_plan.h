// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/sampler.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace lockstep::data::detail {

/// The batches that the sampler itself makes.
template <GivesBatches Sampler>
PassPlan plan_of(const Sampler& sampler, std::int64_t epoch, const LoaderEngine& /*engine*/) {
  PassPlan plan;
  plan.epoch = epoch;
  plan.batches = static_cast<std::size_t>(sampler.size());
  if constexpr (BatchAccessSampler<Sampler>) {
    plan.items = [own = std::make_shared<const Sampler>(sampler)](
                     std::size_t batch, std::vector<std::int64_t>& items) {
      items = own->batch(batch);
    };
  } else {
    plan.items =
        [batches = std::make_shared<std::vector<std::vector<std::int64_t>>>(sampler.batches())](
            std::size_t batch, std::vector<std::int64_t>& items) { items = batches->at(batch); };
  }
  return plan;
}

/// The sampler's order cut into batches.
template <AnySampler Sampler>
requires(!GivesBatches<Sampler>) PassPlan
    plan_of(const Sampler& sampler, std::int64_t epoch, const LoaderEngine& engine) {
  if constexpr (RandomAccessSampler<Sampler>) {
    return engine.cut(epoch, static_cast<std::size_t>(sampler.size()),
                      [own = std::make_shared<const Sampler>(sampler)](
                          std::size_t first, std::size_t count, auto& items) {
                        if constexpr (requires { own->append_indices(first, count, items); }) {
                          own->append_indices(first, count, items);
                        } else {
                          for (std::size_t at = first; at < first + count; ++at) {
                            items.push_back(own->index(at));
                          }
                        }
                      });
  } else {
    auto indices = std::make_shared<const std::vector<std::int64_t>>(sampler.indices());
    const auto size = indices->size();
    return engine.cut(
        epoch, size,
        [indices = std::move(indices)](std::size_t first, std::size_t count, auto& items) {
          const auto begin = indices->begin() + static_cast<std::ptrdiff_t>(first);
          items.insert(items.end(), begin, begin + static_cast<std::ptrdiff_t>(count));
        });
  }
}

}  // namespace lockstep::data::detail
