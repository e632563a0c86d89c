// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/dataset_access.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/sample_codec.h>
#include <lockstep/data/samplers/sample_random.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

/// @file
/// What a class must have so that a `DataLoader` takes it as a dataset. A map-style dataset gives
/// the sample of an index; an iterable dataset is read from front to back.
///
///     /// The squares of the numbers from 0 to 999, with noise.
///     struct Squares {
///       torch::data::Example<> get(std::size_t index, SampleRandom& random) {
///         const auto x = static_cast<double>(index);
///         return {torch::tensor(x), torch::tensor(x * x + random.normal())};
///       }
///       std::size_t size() const { return 1000; }
///     };
///     DataLoader loader(Squares{}, DataLoaderOptions().batch_size(32).workers(2).shuffle(true));
///
/// Blocks: a sample may take as long as `DataLoaderOptions::timeout` allows; the program waits only
/// where the workers cannot keep up.
/// Thread-safety: one thread at a time calls a dataset. Worker processes have a copy each, made by
/// the system (copy-on-write) when the loader is built; worker threads have a copy each where the
/// dataset can be copied.
/// Throws: what `get` or `next` throws is treated as `DataLoaderOptions::on_failed_sample` says; by
/// default it becomes the `WorkerError` of that batch.

namespace lockstep::data {

/// A map-style dataset that draws random numbers: `get(index, random)`. Numbers from `random`
/// depend on seed, epoch and index alone, not on the worker.
template <class T>
concept DrawsAtRandom = requires(T& dataset, std::size_t index, SampleRandom& random) {
  { dataset.get(index, random) } -> GivesSample;
};

/// Any of LibTorch's map-style datasets, with or without transforms (`map`), or a class of your own
/// with `get` and `size`. `get(index)` must depend on the index alone; a dataset that draws random
/// numbers takes them from the generator of `get(index, random)`, or from LibTorch's functions
/// without a generator. `size()` may be a `std::optional`, which must hold a number where the
/// loader is given no sampler. With `describe(index)`, a text, the dataset can say in messages
/// where a sample comes from.
///
/// Samples are of any type with a `SampleCodec`: `torch::data::Example<>`, tensors, numbers,
/// strings, `Bytes`, and vectors, tuples, pairs and maps of these.
template <class T>
concept MapStyleDataset = detail::IsAccessible<T> &&
    SampleType<typename detail::SampleOf<T>::Type> && requires(T& dataset) {
  { dataset.size() } -> std::convertible_to<std::optional<std::size_t>>;
};

/// A dataset that is read from front to back, in shards: after `reset(shard, shards, epoch)`,
/// `next()` gives the samples of that shard one by one, as a `std::optional` or a pointer, and then
/// nothing. The loader makes a copy for each shard. Where `next()` has thrown and
/// `on_failed_sample` passes over that, it is called again and must give the sample behind.
///
///     struct Lines {
///       void reset(std::size_t shard, std::size_t shards, std::int64_t epoch);
///       std::optional<std::string> next();
///     };
template <class T>
concept IterableDataset = requires(T& dataset, std::size_t shard, std::int64_t epoch) {
  dataset.reset(shard, shard, epoch);
  { *dataset.next() } -> GivesSample;
  static_cast<bool>(dataset.next());
};

/// A map-style dataset of `torch::data::Example<>` that can also write a sample into its place in
/// the batch, without a tensor of its own: `get_into(index, data, target)`, with the bytes of the
/// sample's data and of its target in row-major order. All samples have the shapes and dtypes of
/// the first one, which the loader gets by `get`. The bytes must be those of `get(index)`.
template <class T>
concept WritesInPlace = requires(T& dataset, std::size_t index, std::span<std::byte> bytes) {
  dataset.get_into(index, bytes, bytes);
};

/// The same with the generator that `get(index, random)` is given, as the last argument.
template <class T>
concept WritesInPlaceAtRandom = requires(T& dataset, std::size_t index, std::span<std::byte> bytes,
                                         SampleRandom& random) {
  dataset.get_into(index, bytes, bytes, random);
};

/// A map-style dataset that can say from which files a sample is read: `files_of(index, parts)`
/// adds them to a `FileParts`. The loader has those of the samples that come next read into the
/// page cache (`DataLoaderOptions::read_ahead`). Called in the workers, also for samples that `get`
/// is never asked for; what it throws is left to `get`.
template <class T>
concept NamesItsFiles = requires(const T& dataset, std::size_t index, FileParts& parts) {
  dataset.files_of(index, parts);
};

/// A map-style dataset that can also begin to fetch a sample and go on: `get_async(index)` gives a
/// `std::future` of what `get(index)` returns, or any other type with `wait_for` and `get` as that
/// has them. The loader keeps several under way (`DataLoaderOptions::in_flight`) and takes them in
/// the order of the batches; the future may be set in any thread. What `get_async` or the future
/// throws is that sample's error, as if `get` had thrown it.
///
/// Where the dataset has `decode(index, value, random)`, the future may give any value, such as the
/// bytes of a reply; the worker makes the sample of it there, with the sample's random numbers.
///
///     std::future<std::string> get_async(std::size_t index) {
///       auto reply = std::make_shared<std::promise<std::string>>();
///       client_->get(url_of(index), [reply](std::string body) { reply->set_value(body); });
///       return reply->get_future();
///     }
///     torch::data::Example<> decode(std::size_t index, std::string body, SampleRandom& random);
template <class T>
concept GetsAsync = MapStyleDataset<T> && detail::Access<T>::kIsAsync;

namespace detail {

template <IterableDataset Dataset>
struct SampleOf<Dataset> {
  using Type = std::remove_cvref_t<decltype(*std::declval<Dataset&>().next())>;
};

}  // namespace detail
}  // namespace lockstep::data
