// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

/// @file
/// What a class must have so that a `DataLoader` takes it as a sampler. A sampler says which
/// samples of the dataset come in an epoch, and in which order; a sampler of batches also says
/// which of them make a batch. The samplers of this library lie in `data/samplers`.
///
///     /// Every second sample, from the last to the first.
///     class EverySecond {
///      public:
///       explicit EverySecond(std::size_t samples) : samples_(samples) {}
///       std::size_t dataset_size() const { return samples_; }
///       std::size_t size() const { return samples_ / 2; }
///       std::int64_t index(std::size_t position) const {
///         return 2 * static_cast<std::int64_t>(size() - 1 - position);
///       }
///       void set_epoch(std::int64_t) {}
///      ...
///     };
///     DataLoader loader(dataset, EverySecond(dataset.size()), options);
///
/// Units: `size()` counts indices, or batches where the sampler gives batches. Positions and the
/// numbers of batches start at 0. An index is from 0 to `dataset_size()` - 1.
/// Blocks: a loader's program waits while the sampler works out an order.
/// Thread-safety: the loader calls a sampler in the thread that uses the loader, and only there. It
/// copies the sampler for a pass that is under way, so two copies must not share what they change.
/// Throws: what a sampler throws comes out of `begin()`, or out of the batch whose indices it was
/// asked for.

namespace lockstep::data {

/// The members that all samplers have: `size()`, what this rank gets in the current epoch;
/// `dataset_size()`, which every index is below; and `set_epoch(epoch)`, after which the order of
/// that epoch is given.
template <class T>
concept EpochOrder = requires(T& sampler, const T& view, std::int64_t epoch) {
  { view.size() } -> std::convertible_to<std::size_t>;
  { view.dataset_size() } -> std::convertible_to<std::size_t>;
  sampler.set_epoch(epoch);
};

/// A sampler that gives all `size()` indices of the epoch at once, by `indices()`.
template <class T>
concept IndexSampler = EpochOrder<T> && requires(const T& view) {
  { view.indices() } -> std::convertible_to<std::vector<std::int64_t>>;
};

/// A sampler that gives one index at a time, by `index(position)`; the loader keeps nothing for
/// each sample then. With `append_indices(first, count, indices)`, as `EpochSampler` has it, the
/// loader asks for many at once.
template <class T>
concept RandomAccessSampler = EpochOrder<T> && requires(const T& view, std::size_t position) {
  { view.index(position) } -> std::convertible_to<std::int64_t>;
};

/// A sampler that gives the indices of one batch at a time, by `batch(number)`. `largest_batch()`
/// may say how many indices a batch has at most; without it, the loader looks at all batches of the
/// first epoch.
template <class T>
concept BatchAccessSampler = EpochOrder<T> && requires(const T& view, std::size_t number) {
  { view.batch(number) } -> std::convertible_to<std::vector<std::int64_t>>;
};

/// A sampler that gives all `size()` batches of the epoch at once, by `batches()`.
template <class T>
concept BatchListSampler = EpochOrder<T> && requires(const T& view) {
  { view.batches() } -> std::convertible_to<std::vector<std::vector<std::int64_t>>>;
};

/// A sampler that decides itself which indices make a batch. `DataLoaderOptions::batch_size` and
/// `drop_last` do not apply to it.
template <class T>
concept GivesBatches = BatchAccessSampler<T> || BatchListSampler<T>;

/// Everything that a loader takes as a sampler.
template <class T>
concept AnySampler = IndexSampler<T> || RandomAccessSampler<T> || GivesBatches<T>;

/// A sampler that can say where all ranks together stand in an epoch, and that can go on from
/// there; `DataLoader::state` and `load_state` need one. `global_position(n)` is asked with the
/// number of samples (batches, where the sampler gives batches) that this rank has consumed since
/// the start. A last batch that is not full counts as a full one, so `n` may be larger than
/// `size()`. `fingerprint()` differs where the same seed and epoch give another order.
template <class T>
concept ResumableSampler = requires(T& sampler, const T& view, std::uint64_t position) {
  sampler.start_at(position);
  { view.global_position(std::size_t{}) } -> std::convertible_to<std::uint64_t>;
  { view.seed() } -> std::convertible_to<std::uint64_t>;
  { view.fingerprint() } -> std::convertible_to<std::uint64_t>;
  { view.epoch() } -> std::convertible_to<std::int64_t>;
};

}  // namespace lockstep::data
