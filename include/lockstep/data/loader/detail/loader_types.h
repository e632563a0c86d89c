// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/dataset.h>
#include <lockstep/data/loader/detail/sample_source.h>
#include <lockstep/data/sampler.h>
#include <lockstep/data/samplers/detail/sampler_access.h>
#include <lockstep/data/samplers/distributed_sampler.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

/// What a loader says, in one sentence each, about types that it cannot work with.
namespace lockstep::data::detail {

/// `Type` is the part because of which a type is no sample: `char` in `Example<Tensor, char>`; the
/// type itself where no part is to blame.
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

template <class T>
concept HasCodec = requires {
  sizeof(SampleCodec<T>);
};

/// Says why `T` is no sample, unless it is one.
template <class T>
struct SampleCheck {
  static constexpr bool kIsSample = SampleType<T>;
  using Refused = typename RefusedPart<T>::Type;
  static constexpr bool kIsCharacter = !kIsSample && CharacterType<Refused>;
  static constexpr bool kIsOptional = !kIsSample && IsOptional<Refused>::value;
  static constexpr bool kHasBadCodec = !kIsSample && HasCodec<Refused>;

  static_assert(
      !kIsCharacter,
      "DataLoader: a char in a sample is neither a number nor a string; return std::int8_t, "
      "std::uint8_t or std::string");
  static_assert(!kIsOptional,
                "DataLoader: a sample has no std::optional in it; throw where one cannot be had, "
                "and say by DataLoaderOptions::on_failed_sample what becomes of it");
  static_assert(!kHasBadCodec,
                "DataLoader: the SampleCodec of a sample's type is not complete; it needs Batch, "
                "kHasRows, to_tree(sample), to_batch(tree) and from_tree(tree)");
  static_assert(
      kIsSample || kIsCharacter || kIsOptional || kHasBadCodec,
      "DataLoader: samples and batches are torch::data::Example<>, tensors, numbers, "
      "strings, data::Bytes, data::SampleTree, and vectors, pairs, tuples and maps of these; for "
      "a struct of your own, specialise lockstep::data::SampleCodec");
};
template <>
struct SampleCheck<void> {};  // there is a sentence about the dataset already

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

/// Stands in place of a batch's type where there is none.
struct NoBatch {
  struct Type {};
  static Type from(const SampleTree&) { return {}; }
};
template <bool kIsValid, class Dataset, class Collate>
struct CodecOf {
  using Type = NoBatch;
};
template <class Dataset, class Collate>
struct CodecOf<true, Dataset, Collate> {
  using Type = BatchOf<Dataset, Collate>;
};

/// What a collate function, if there is one, makes of a dataset's samples.
template <bool kHasSamples, class Dataset, class Collate>
struct Collated {
  static constexpr bool kIsVector = true;  // there is a sentence about the samples already
  static constexpr bool kTakesThem = true;
  using Type = void;
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
struct Collated<true, Dataset, StackSamples> {
  static constexpr bool kIsVector = true;
  static constexpr bool kTakesThem = true;
  using Type = typename PartOf<typename CollatedOf<Dataset>::Type>::Type;
};
template <bool kCanCall, class Collate, class Taken>
struct ReturnedBy {
  using Type = void;
};
template <class Collate, class Taken>
struct ReturnedBy<true, Collate, Taken> {
  using Type = std::remove_cvref_t<std::invoke_result_t<Collate&, Taken>>;
};
template <class Dataset, class Collate>
struct Collated<true, Dataset, Collate> {
  using Taken = typename CollatedOf<Dataset>::Type;
  static constexpr bool kIsVector = IsVector<Taken>::value;
  static constexpr bool kTakesThem = kIsVector && std::is_invocable_v<Collate&, Taken>;
  using Type = typename ReturnedBy<kTakesThem, Collate, Taken>::Type;
};

/// Says why a collate function does not take the samples, unless it does.
template <class Made>
struct CollateCheck {
  static_assert(Made::kIsVector,
                "DataLoader: the dataset's last transform makes a batch already; leave it out, or "
                "the collate function");
  static_assert(!Made::kIsVector || Made::kTakesThem,
                "DataLoader: the collate function cannot be called with a std::vector of the "
                "dataset's samples");
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
  static constexpr bool kMissesOrder = kIsDataset && !kIsIterable && !kHasOrder;
  static_assert(!kMissesOrder || !EpochOrder<Sampler>,
                "DataLoader: the sampler gives no indices; it needs index(position), indices(), "
                "batch(number) or batches()");
  static_assert(!kMissesOrder || EpochOrder<Sampler>,
                "DataLoader: the second argument is neither options nor a sampler, which has "
                "size(), dataset_size(), set_epoch(epoch), and index(position), indices(), "
                "batch(number) or batches()");

  using Sample = typename CheckedSample<Dataset>::Type;
  static constexpr bool kHasSamples = SampleType<Sample>;
  using Made = Collated<kHasSamples, Dataset, Collate>;
  static constexpr bool kIsValid =
      SampleType<typename Made::Type> && kIsDataset && kHasSize && kHasOrder;

  // Instantiates the checks, and takes no constant of them: clang has none of a class that failed.
  static_assert(sizeof(SampleCheck<Sample>) > 0 && sizeof(SampleCheck<typename Made::Type>) > 0);
  static_assert(sizeof(CollateCheck<Made>) > 0);

  using Codec = typename CodecOf<kIsValid, Dataset, Collate>::Type;
};

/// The sampler of a loader that is given none.
template <class Dataset>
using DefaultSampler = std::conditional_t<HasShards<Dataset>, NoSampler, DistributedSampler>;

}  // namespace lockstep::data::detail
