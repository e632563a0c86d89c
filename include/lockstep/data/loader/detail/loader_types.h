// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/sample_source.h>
#include <lockstep/data/samplers/detail/sampler_concepts.h>
#include <lockstep/data/samplers/distributed_sampler.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

/// What a loader says, in one sentence each, of types that it cannot work with.
namespace lockstep::data::detail {

/// The part for which a type is no sample: `char` of `Example<Tensor, char>`; the type itself where
/// no part is to blame.
template <class T>
struct RefusedPart {
  using Type = T;
};
template <class... Parts>
struct FirstRefused {
  using Type = void;
};
template <class Part, class... Others>
struct FirstRefused<Part, Others...>
    : std::conditional_t<SampleType<Part>, FirstRefused<Others...>, RefusedPart<Part>> {};
template <class T>
struct RefusedPart<std::optional<T>> {
  using Type = std::optional<T>;
};
template <class Data, class Target>
struct RefusedPart<torch::data::Example<Data, Target>> : FirstRefused<Data, Target> {};
template <class T>
struct RefusedPart<std::vector<T>> : FirstRefused<T> {};
template <class... Parts>
struct RefusedPart<std::tuple<Parts...>> : FirstRefused<Parts...> {};
template <class First, class Second>
struct RefusedPart<std::pair<First, Second>> : FirstRefused<First, Second> {};

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

/// Says why `T` is no sample, unless it is one.
template <class T>
struct SampleCheck {
  static constexpr bool kIsSample = SampleType<T>;
  using Refused = typename RefusedPart<T>::Type;
  static constexpr bool kIsCharacter = !kIsSample && CharacterType<Refused>;
  static constexpr bool kIsOptional = !kIsSample && IsOptional<Refused>::value;

  static_assert(
      !kIsCharacter,
      "DataLoader: a char in a sample is neither a number nor a text; return std::int8_t, "
      "std::uint8_t or std::string");
  static_assert(!kIsOptional,
                "DataLoader: a sample has no std::optional in it; throw where one cannot be had, "
                "and say by DataLoaderOptions::on_failed_sample what becomes of it");
  static_assert(
      kIsSample || kIsCharacter || kIsOptional,
      "DataLoader: samples and batches are torch::data::Example<>, tensors, numbers, "
      "texts, data::Bytes, data::Value, and vectors, pairs, tuples and maps of these; for "
      "a struct of your own, specialise lockstep::data::SampleCodec");
};
template <>
struct SampleCheck<void> {
  static constexpr bool kIsSample = false;  // there is a sentence about the dataset already
};

template <class T>
concept HasSize = requires(T& dataset) {
  { dataset.size() } -> std::convertible_to<std::optional<std::size_t>>;
};
template <class T>
concept HasShards = requires(T& dataset, std::size_t shard, std::int64_t epoch) {
  dataset.reset(shard, shard, epoch);
  *dataset.next();
};

template <class Dataset>
struct CheckedSample {
  using Type = void;
};
template <IsAccessible Dataset>
struct CheckedSample<Dataset> {
  using Type = typename SampleOf<Dataset>::Type;
};
template <HasShards Dataset>
struct CheckedSample<Dataset> {
  using Type = std::remove_cvref_t<decltype(*std::declval<Dataset&>().next())>;
};

/// In place of a batch's type, where there is none.
struct NoBatch {
  struct Type {};
  static Type from(const Value&) { return {}; }
};
template <bool kIsValid, class Dataset, class Collate>
struct CodecOf {
  using Type = NoBatch;
};
template <class Dataset, class Collate>
struct CodecOf<true, Dataset, Collate> {
  using Type = BatchOf<Dataset, Collate>;
};

/// Whether the collate function, if there is one, takes the samples and gives a batch.
template <bool kHasSamples, class Dataset, class Collate>
struct CollateCheck {
  static constexpr bool kIsValid = false;  // there is a sentence about the samples already
};
template <class T>
struct PartOf {  // of what is stacked, the sample; else what is delivered
  using Type = T;
};
template <class T>
struct PartOf<std::vector<T>> {
  using Type = T;
};
template <class Dataset>
struct CollateCheck<true, Dataset, StackSamples> {
  using Made = typename CollatedOf<Dataset>::Type;
  static constexpr bool kIsValid = SampleCheck<typename PartOf<Made>::Type>::kIsSample;
};
template <class Dataset, class Collate>
struct CollateCheck<true, Dataset, Collate> {
  using Taken = typename CollatedOf<Dataset>::Type;
  static constexpr bool kIsVector = IsVector<Taken>::value;
  static constexpr bool kTakesThem = kIsVector && std::is_invocable_v<Collate&, Taken>;
  static_assert(kIsVector,
                "DataLoader: the dataset's last transform makes a batch already; leave it out, or "
                "the collate function");
  static_assert(!kIsVector || kTakesThem,
                "DataLoader: the collate function cannot be called with a std::vector of the "
                "dataset's samples");
  static constexpr bool is_valid() {
    if constexpr (kTakesThem) {
      return SampleCheck<std::remove_cvref_t<std::invoke_result_t<Collate&, Taken>>>::kIsSample;
    } else {
      return false;
    }
  }
  static constexpr bool kIsValid = is_valid();
};

/// All of a loader's types.
template <class Dataset, class Sampler, class Collate>
struct LoaderTypes {
  static constexpr bool kIsIterable = HasShards<Dataset>;
  static constexpr bool kIsDataset = kIsIterable || IsAccessible<Dataset>;
  static constexpr bool kHasSize = kIsIterable || HasSize<Dataset>;
  static constexpr bool kHasOrder =
      kIsIterable ? std::is_same_v<Sampler, NoSampler> : AnySampler<Sampler>;

  static_assert(kIsDataset,
                "DataLoader: this class is no dataset; it needs get(index) and size(), or "
                "reset(shard, shards, epoch) and next() where it is read front to back");
  static_assert(!kIsDataset || kHasSize,
                "DataLoader: the dataset has no size(); give it `std::size_t size() const`");
  static_assert(!kIsIterable || kHasOrder,
                "DataLoader: an iterable dataset decides its order itself; leave the sampler out");
  static_assert(!kIsDataset || kIsIterable || kHasOrder,
                "DataLoader: the second argument is neither options nor a sampler, which has "
                "size(), dataset_size(), set_epoch(epoch), and index(position), indices(), "
                "batch(number) or batches()");

  static constexpr bool kHasSamples = SampleCheck<typename CheckedSample<Dataset>::Type>::kIsSample;
  static constexpr bool kIsValid =
      CollateCheck<kHasSamples, Dataset, Collate>::kIsValid && kIsDataset && kHasSize && kHasOrder;
  using Codec = typename CodecOf<kIsValid, Dataset, Collate>::Type;
};

/// Of a loader that is told of none.
template <class Dataset>
using DefaultSampler = std::conditional_t<HasShards<Dataset>, NoSampler, DistributedSampler>;

}  // namespace lockstep::data::detail
