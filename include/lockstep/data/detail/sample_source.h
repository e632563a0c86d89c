// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/loader_engine.h>
#include <lockstep/data/detail/value_codec.h>
#include <lockstep/data/sample_random.h>
#include <torch/data/example.h>

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::data {

/// A dataset whose samples draw random numbers from the generator that they are given.
template <class T>
concept DrawsAtRandom = requires(T& dataset, std::size_t index, SampleRandom& random) {
  { dataset.get(index, random) } -> GivesSample;
};

/// Any of LibTorch's map-style datasets, or a class of your own with `get` and `size`. `get(index)`
/// must depend on the index alone; what it draws at random it takes from the generator of
/// `get(index, random)`, or from LibTorch's functions without a generator. Samples are
/// `torch::data::Example<>`, tensors, numbers, texts, `Bytes`, and vectors, tuples, pairs and maps
/// of these (`SampleCodec`).
template <class T>
concept MapStyleDataset = (DrawsAtRandom<T> ||
                           requires(T & dataset, std::size_t index) {
                             { dataset.get(index) } -> GivesSample;
                           }) &&
                          requires(T& dataset) {
  { dataset.size() } -> std::convertible_to<std::optional<std::size_t>>;
};

/// A dataset that is read front to back, in shards: after `reset(shard, shards, epoch)`, `next()`
/// gives the shard's samples one by one, then nothing. The loader makes copies of it.
template <class T>
concept IterableDataset = requires(T& dataset, std::size_t shard, std::int64_t epoch) {
  dataset.reset(shard, shard, epoch);
  { *dataset.next() } -> GivesSample;
  static_cast<bool>(dataset.next());
};

/// A dataset that can also write a sample where it belongs in the batch, without a tensor of its
/// own, with or without a generator. All its samples have the shapes and dtypes of the first.
template <class T>
concept WritesInPlace = requires(T& dataset, std::size_t index, std::span<std::byte> bytes) {
  dataset.get_into(index, bytes, bytes);
};
template <class T>
concept WritesInPlaceAtRandom = requires(T& dataset, std::size_t index, std::span<std::byte> bytes,
                                         SampleRandom& random) {
  dataset.get_into(index, bytes, bytes, random);
};

/// Batches are stacked samples: what a loader does unless it is told otherwise.
struct StackSamples {};

namespace detail {

template <class Dataset>
auto get_sample(Dataset& dataset, std::size_t index, SampleRandom& random) {
  if constexpr (DrawsAtRandom<Dataset>) {
    return dataset.get(index, random);
  } else {
    return dataset.get(index);
  }
}

template <class Dataset>
struct SampleOf {
  using Type = std::remove_cvref_t<decltype(get_sample(std::declval<Dataset&>(), std::size_t{},
                                                       std::declval<SampleRandom&>()))>;
};
template <IterableDataset Dataset>
struct SampleOf<Dataset> {
  using Type = std::remove_cvref_t<decltype(*std::declval<Dataset&>().next())>;
};

template <class Sample, class Collate>
struct BatchOf {
  using Type = std::remove_cvref_t<std::invoke_result_t<Collate&, std::vector<Sample>>>;
  static Type from(const Value& value) { return SampleCodec<Type>::from_value(value); }
};
template <class Sample>
struct BatchOf<Sample, StackSamples> {
  using Type = typename SampleCodec<Sample>::Batch;
  static Type from(const Value& value) { return SampleCodec<Sample>::to_batch(value); }
};

template <class Dataset>
class StreamOf : public SampleStream {
 public:
  explicit StreamOf(const Dataset& dataset) : dataset_(dataset) {}
  void reset(std::size_t shard, std::size_t shards, std::int64_t epoch) override {
    dataset_.reset(shard, shards, epoch);
  }
  std::optional<Value> next() override {
    auto sample = dataset_.next();
    if (!sample) return std::nullopt;
    return SampleCodec<typename SampleOf<Dataset>::Type>::to_value(*std::move(sample));
  }

 private:
  Dataset dataset_;
};

template <class Dataset, class Collate>
void add_collate(SampleSource& source, Collate collate) {
  using Sample = typename SampleOf<Dataset>::Type;
  if constexpr (std::is_same_v<Collate, StackSamples>) {
    source.has_rows = !IterableDataset<Dataset> && SampleCodec<Sample>::kHasRows;
  } else {
    source.collate = [collate = std::move(collate)](std::vector<Value> values) mutable -> Value {
      std::vector<Sample> samples;
      samples.reserve(values.size());
      for (auto& value : values) {
        samples.push_back(SampleCodec<Sample>::from_value(std::move(value)));
      }
      using Batch = typename BatchOf<Sample, Collate>::Type;
      return SampleCodec<Batch>::to_value(collate(std::move(samples)));
    };
  }
}

template <class Dataset>
void add_samples(SampleSource& source, const std::shared_ptr<Dataset>& dataset) {
  using Sample = typename SampleOf<Dataset>::Type;
  source.get = [dataset](std::size_t index, SampleRandom& random) {
    return SampleCodec<Sample>::to_value(get_sample(*dataset, index, random));
  };
  constexpr bool kIsExample = std::is_same_v<Sample, torch::data::Example<>>;
  if constexpr (kIsExample && WritesInPlaceAtRandom<Dataset>) {
    source.get_into = [dataset](std::size_t index, std::span<std::byte> data,
                                std::span<std::byte> target, SampleRandom& random) {
      dataset->get_into(index, data, target, random);
    };
  } else if constexpr (kIsExample && WritesInPlace<Dataset>) {
    source.get_into = [dataset](std::size_t index, std::span<std::byte> data,
                                std::span<std::byte> target,
                                SampleRandom&) { dataset->get_into(index, data, target); };
  }
  if constexpr (requires(const Dataset& known, std::size_t index) {
                  { known.describe(index) } -> std::convertible_to<std::string>;
                }) {
    source.describe = [dataset](std::size_t index) -> std::string {
      return std::as_const(*dataset).describe(index);
    };
  }
  source.size = std::optional<std::size_t>(dataset->size());
}

template <class Dataset, class Collate>
SampleSource source_of(const std::shared_ptr<Dataset>& dataset, const Collate& collate) {
  SampleSource source;
  add_collate<Dataset>(source, collate);
  if constexpr (IterableDataset<Dataset>) {
    source.open = [dataset]() -> std::unique_ptr<SampleStream> {
      return std::make_unique<StreamOf<Dataset>>(*dataset);
    };
  } else {
    add_samples(source, dataset);
  }
  if constexpr (std::is_copy_constructible_v<Dataset>) {
    source.copy = [dataset, collate] {
      return source_of(std::make_shared<Dataset>(std::as_const(*dataset)), collate);
    };
  }
  return source;
}

}  // namespace detail
}  // namespace lockstep::data
