// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/sample_random.h>
#include <torch/data/datasets/map.h>
#include <torch/data/transforms/stack.h>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <future>
#include <type_traits>
#include <utility>
#include <vector>

/// How a loader gets the samples of a dataset, whoever wrote it: by `get(index, random)`,
/// `get(index)`, or LibTorch's `get_batch`; and what LibTorch's transforms make of them.
namespace lockstep::data::detail {

template <class T>
concept HasGetAtRandom = requires(T& dataset, std::size_t index, SampleRandom& random) {
  dataset.get(index, random);
};
template <class T>
concept HasGet = HasGetAtRandom<T> || requires(T& dataset, std::size_t index) {
  dataset.get(index);
};

/// A `std::future`, or what can be waited for in the same way.
template <class T>
concept FutureLike = requires(T& future, std::chrono::milliseconds limit) {
  { future.wait_for(limit) } -> std::same_as<std::future_status>;
  future.get();
};
template <class T>
concept HasGetAsync = HasGet<T> && requires(T& dataset, std::size_t index) {
  { dataset.get_async(index) } -> FutureLike;
};
/// Makes the sample of what a future gives.
template <class T, class Value>
concept Decodes = requires(T& dataset, std::size_t index, Value value, SampleRandom& random) {
  dataset.decode(index, std::move(value), random);
};

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

/// One of LibTorch's `BatchDataset` with samples that can be had one by one.
template <class T>
concept HasGetBatch = !HasGet<T> && requires(T & dataset, c10::ArrayRef<std::size_t> indices) {
  requires IsVector<std::remove_cvref_t<decltype(dataset.get_batch(indices))>>::value;
};

/// Members: `get`, a sample; `innermost`, the dataset below all transforms; `kMakesBatches`,
/// whether there are transforms of whole batches, and then `finish`, which applies these to
/// samples; `kOnlyStacks`, whether they do what the loader does anyway. `kIsAsync`, and then
/// `start`, a future, and `take`, the sample of one that is ready.
template <class Dataset>
struct Access {};

template <HasGet Dataset>
struct Access<Dataset> {
  static constexpr bool kMakesBatches = false;
  static constexpr bool kOnlyStacks = false;

  static auto get(Dataset& dataset, std::size_t index, SampleRandom& random) {
    if constexpr (HasGetAtRandom<Dataset>) {
      return dataset.get(index, random);
    } else {
      return dataset.get(index);
    }
  }
  static const Dataset& innermost(Dataset& dataset) { return dataset; }

  static constexpr bool kIsAsync = HasGetAsync<Dataset>;
  static auto start(Dataset& dataset, std::size_t index) requires HasGetAsync<Dataset> {
    return dataset.get_async(index);
  }
  template <class Future>
  static auto take(Dataset& dataset, std::size_t index, Future& future, SampleRandom& random) {
    using Value = std::remove_cvref_t<decltype(future.get())>;
    if constexpr (Decodes<Dataset, Value>) {
      return dataset.decode(index, Value(future.get()), random);
    } else {
      return Value(future.get());
    }
  }
};

template <HasGetBatch Dataset>
struct Access<Dataset> {
  static constexpr bool kIsAsync = false;
  static constexpr bool kMakesBatches = false;
  static constexpr bool kOnlyStacks = false;

  static auto get(Dataset& dataset, std::size_t index, SampleRandom& /*random*/) {
    auto batch = dataset.get_batch(index);
    TORCH_CHECK(batch.size() == 1, "DataLoader: the dataset's get_batch gave ", batch.size(),
                " samples for one index");
    return std::move(batch.front());
  }
  static const Dataset& innermost(Dataset& dataset) { return dataset; }
};

template <class In, class Out>
std::true_type is_per_sample(const torch::data::transforms::Transform<In, Out>*);
std::false_type is_per_sample(const void*);

template <class Transform>
struct IsStack : std::false_type {};
template <class Sample>
struct IsStack<torch::data::transforms::Stack<Sample>> : std::true_type {};

template <class Dataset>
concept IsAccessible = requires {
  Access<Dataset>::kMakesBatches;
};

/// `dataset.map(transform)`. Transforms of samples are applied one by one, so that all that a
/// loader says about a sample holds for them; only what makes something of a whole batch waits for
/// it.
template <IsAccessible Source, class Transform>
struct Access<torch::data::datasets::MapDataset<Source, Transform>> {
  using Mapped = torch::data::datasets::MapDataset<Source, Transform>;
  using Below = Access<Source>;
  static constexpr bool kIsPerSample =
      !Below::kMakesBatches && decltype(is_per_sample(std::declval<Transform*>()))::value;
  static constexpr bool kMakesBatches = !kIsPerSample;
  static constexpr bool kOnlyStacks = !Below::kMakesBatches && IsStack<Transform>::value;

  static auto get(Mapped& dataset, std::size_t index, SampleRandom& random) {
    if constexpr (kIsPerSample) {
      return transform(dataset).apply(Below::get(source(dataset), index, random));
    } else {
      return Below::get(source(dataset), index, random);
    }
  }
  static const auto& innermost(Mapped& dataset) { return Below::innermost(source(dataset)); }

  static constexpr bool kIsAsync = Below::kIsAsync;
  static auto start(Mapped& dataset, std::size_t index) requires kIsAsync {
    return Below::start(source(dataset), index);
  }
  template <class Future>
  static auto take(Mapped& dataset, std::size_t index, Future& future, SampleRandom& random) {
    if constexpr (kIsPerSample) {
      return transform(dataset).apply(Below::take(source(dataset), index, future, random));
    } else {
      return Below::take(source(dataset), index, future, random);
    }
  }

  template <class Samples>
  static auto finish(Mapped& dataset, Samples samples) {
    if constexpr (Below::kMakesBatches) {
      return transform(dataset).apply_batch(Below::finish(source(dataset), std::move(samples)));
    } else {
      return transform(dataset).apply_batch(std::move(samples));
    }
  }

 private:
  // The dataset is not const itself, only its accessors make it so; LibTorch's get and apply are
  // not const.
  static Source& source(Mapped& dataset) { return const_cast<Source&>(dataset.dataset()); }
  static Transform& transform(Mapped& dataset) {
    return const_cast<Transform&>(dataset.transform());
  }
};

/// `Type` is the type of the dataset's samples. `data/dataset.h` adds that of iterable datasets.
template <class Dataset>
struct SampleOf {
  using Type = std::remove_cvref_t<decltype(Access<Dataset>::get(
      std::declval<Dataset&>(), std::size_t{}, std::declval<SampleRandom&>()))>;
};

}  // namespace lockstep::data::detail
