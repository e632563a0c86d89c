// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/dataset_access.h>
#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samples/detail/value_codec.h>
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

namespace detail {

template <class Dataset>
struct SampleOf {
  using Type = std::remove_cvref_t<decltype(Access<Dataset>::get(
      std::declval<Dataset&>(), std::size_t{}, std::declval<SampleRandom&>()))>;
};

}  // namespace detail

/// Any of LibTorch's map-style datasets, with or without transforms (`map`), or a class of your own
/// with `get` and `size`. `get(index)` must depend on the index alone; what it draws at random it
/// takes from the generator of `get(index, random)`, or from LibTorch's functions without a
/// generator. Samples are `torch::data::Example<>`, tensors, numbers, texts, `Bytes`, and vectors,
/// tuples, pairs and maps of these (`SampleCodec`).
template <class T>
concept MapStyleDataset = detail::IsAccessible<T> &&
    SampleType<typename detail::SampleOf<T>::Type> && requires(T& dataset) {
  { dataset.size() } -> std::convertible_to<std::optional<std::size_t>>;
};

/// A dataset that is read front to back, in shards: after `reset(shard, shards, epoch)`, `next()`
/// gives the shard's samples one by one, then nothing. The loader makes copies of it. Where
/// `next()` has thrown and `on_failed_sample` passes over that, it is asked again, for the sample
/// behind.
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

template <IterableDataset Dataset>
struct SampleOf<Dataset> {
  using Type = std::remove_cvref_t<decltype(*std::declval<Dataset&>().next())>;
};

/// Of what a batch is made: a vector of samples; or, where the dataset's transforms make something
/// of a whole batch, what they make.
template <class Dataset>
struct CollatedOf {
  using Type = std::vector<typename SampleOf<Dataset>::Type>;
};
template <IsAccessible Dataset>
requires(Access<Dataset>::kMakesBatches &&
         !Access<Dataset>::kOnlyStacks) struct CollatedOf<Dataset> {
  using Samples = std::vector<typename SampleOf<Dataset>::Type>;
  using Type = std::remove_cvref_t<decltype(Access<Dataset>::finish(std::declval<Dataset&>(),
                                                                    std::declval<Samples>()))>;
};

/// The type of a batch that `Collate` makes of `Made`, and how it comes out of a `Value`.
template <class Made, class Collate>
struct BatchOfMade {
  using Type = std::remove_cvref_t<std::invoke_result_t<Collate&, Made>>;
  static Type from(const Value& value) { return SampleCodec<Type>::from_value(value); }
};
template <class Made>
struct BatchOfMade<Made, StackSamples> {
  using Type = Made;
  static Type from(const Value& value) { return SampleCodec<Made>::from_value(value); }
};
template <class Sample>
struct BatchOfMade<std::vector<Sample>, StackSamples> {
  using Type = typename SampleCodec<Sample>::Batch;
  static Type from(const Value& value) { return SampleCodec<Sample>::to_batch(value); }
};
template <class Dataset, class Collate>
using BatchOf = BatchOfMade<typename CollatedOf<Dataset>::Type, Collate>;

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

/// What a loader delivers of what the transforms and the collate function have made.
template <class Made, class Collate>
Value value_of_batch(Made made, Collate& collate) {
  if constexpr (!std::is_same_v<Collate, StackSamples>) {
    using Batch = typename BatchOfMade<Made, Collate>::Type;
    return SampleCodec<Batch>::to_value(collate(std::move(made)));
  } else if constexpr (IsVector<Made>::value) {
    std::vector<Value> samples;
    samples.reserve(made.size());
    for (auto& sample : made) {
      samples.push_back(SampleCodec<typename Made::value_type>::to_value(std::move(sample)));
    }
    return stack(std::move(samples));
  } else {
    return SampleCodec<Made>::to_value(std::move(made));
  }
}

template <class Dataset, class Collate>
void add_collate(SampleSource& source, const std::shared_ptr<Dataset>& dataset, Collate collate) {
  using Sample = typename SampleOf<Dataset>::Type;
  constexpr bool kFinishes = requires {
    typename CollatedOf<Dataset>::Samples;
  };
  if constexpr (std::is_same_v<Collate, StackSamples> && !kFinishes) {
    source.has_rows = !IterableDataset<Dataset> && SampleCodec<Sample>::kHasRows;
  } else {
    source.collate = [dataset,
                      collate = std::move(collate)](std::vector<Value> values) mutable -> Value {
      std::vector<Sample> samples;
      samples.reserve(values.size());
      for (auto& value : values) {
        samples.push_back(SampleCodec<Sample>::from_value(std::move(value)));
      }
      if constexpr (kFinishes) {
        return value_of_batch(Access<Dataset>::finish(*dataset, std::move(samples)), collate);
      } else {
        return value_of_batch(std::move(samples), collate);
      }
    };
  }
}

template <class Dataset>
void add_samples(SampleSource& source, const std::shared_ptr<Dataset>& dataset) {
  using Sample = typename SampleOf<Dataset>::Type;
  source.get = [dataset](std::size_t index, SampleRandom& random) {
    return SampleCodec<Sample>::to_value(Access<Dataset>::get(*dataset, index, random));
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
  using Innermost = std::remove_cvref_t<decltype(Access<Dataset>::innermost(*dataset))>;
  if constexpr (requires(const Innermost& known, std::size_t index) {
                  { known.describe(index) } -> std::convertible_to<std::string>;
                }) {
    source.describe = [dataset](std::size_t index) -> std::string {
      return Access<Dataset>::innermost(*dataset).describe(index);
    };
  }
  source.size = std::optional<std::size_t>(dataset->size());
}

template <class Dataset, class Collate>
SampleSource source_of(const std::shared_ptr<Dataset>& dataset, const Collate& collate) {
  SampleSource source;
  add_collate(source, dataset, collate);
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
