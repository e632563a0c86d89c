// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::data {

/// What all samplers have in common.
template <class T>
concept EpochOrder = requires(T& sampler, const T& view, std::int64_t epoch) {
  { view.size() } -> std::convertible_to<std::size_t>;
  { view.dataset_size() } -> std::convertible_to<std::size_t>;
  sampler.set_epoch(epoch);
};

/// Gives an epoch's indices at once.
template <class T>
concept IndexSampler = EpochOrder<T> && requires(const T& view) {
  { view.indices() } -> std::convertible_to<std::vector<std::int64_t>>;
};

/// Gives this rank's index number `position` of the epoch: nothing is kept for each sample.
template <class T>
concept RandomAccessSampler = EpochOrder<T> && requires(const T& view, std::size_t position) {
  { view.index(position) } -> std::convertible_to<std::int64_t>;
};

/// Decides itself which indices make a batch; `size()` is the number of batches. With
/// `largest_batch()` it says how many indices a batch may have; else all of the first epoch's are
/// looked at.
template <class T>
concept BatchAccessSampler = EpochOrder<T> && requires(const T& view, std::size_t number) {
  { view.batch(number) } -> std::convertible_to<std::vector<std::int64_t>>;
};
template <class T>
concept BatchListSampler = EpochOrder<T> && requires(const T& view) {
  { view.batches() } -> std::convertible_to<std::vector<std::vector<std::int64_t>>>;
};
template <class T>
concept GivesBatches = BatchAccessSampler<T> || BatchListSampler<T>;

template <class T>
concept AnySampler = IndexSampler<T> || RandomAccessSampler<T> || GivesBatches<T>;

/// Can say where all ranks together stand in an epoch, and go on from there. `global_position` is
/// asked with the samples that this rank has consumed since the start, where a last batch that is
/// not full counts as a full one, so perhaps with more than there are; with its batches, where the
/// sampler gives batches.
template <class T>
concept ResumableSampler = requires(T& sampler, const T& view, std::uint64_t position) {
  sampler.start_at(position);
  { view.global_position(std::size_t{}) } -> std::convertible_to<std::uint64_t>;
  { view.seed() } -> std::convertible_to<std::uint64_t>;
  { view.fingerprint() } -> std::convertible_to<std::uint64_t>;
  { view.epoch() } -> std::convertible_to<std::int64_t>;
};

namespace detail {

/// In place of a sampler, for iterable datasets.
struct NoSampler {};

/// Indices in a whole epoch, also where it shall begin in the middle.
template <class Sampler>
std::size_t epoch_size(const Sampler& sampler) {
  if constexpr (requires { sampler.epoch_size(); }) {
    return static_cast<std::size_t>(sampler.epoch_size());
  } else {
    return static_cast<std::size_t>(sampler.size());
  }
}

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

}  // namespace detail
}  // namespace lockstep::data
