// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/collate.h>
#include <lockstep/data/dataset.h>
#include <lockstep/data/loader/detail/loader_engine.h>
#include <lockstep/data/sample_codec.h>
#include <lockstep/data/samplers/sample_random.h>
#include <torch/data/example.h>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::data::detail {

/// `Type` is what a batch is made of: a vector of samples; or, where the dataset's transforms make
/// something of a whole batch, what they make.
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

/// The type of a batch that `Collate` makes of `Made`, and how it is made of a `SampleTree`.
template <class Made, class Collate>
struct BatchOfMade {
  using Type = std::remove_cvref_t<std::invoke_result_t<Collate&, Made>>;
  static Type from(const SampleTree& tree) { return SampleCodec<Type>::from_tree(tree); }
};
template <class Made>
struct BatchOfMade<Made, StackSamples> {
  using Type = Made;
  static Type from(const SampleTree& tree) { return SampleCodec<Made>::from_tree(tree); }
};
template <class Sample>
struct BatchOfMade<std::vector<Sample>, StackSamples> {
  using Type = typename SampleCodec<Sample>::Batch;
  static Type from(const SampleTree& tree) { return SampleCodec<Sample>::to_batch(tree); }
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
  std::optional<SampleTree> next() override {
    auto sample = dataset_.next();
    if (!sample) return std::nullopt;
    return SampleCodec<typename SampleOf<Dataset>::Type>::to_tree(*std::move(sample));
  }

 private:
  Dataset dataset_;
};

template <class Dataset>
class PendingOf : public PendingSample {
  using Future = decltype(Access<Dataset>::start(std::declval<Dataset&>(), std::size_t{}));
  using Sample = typename SampleOf<Dataset>::Type;

 public:
  PendingOf(std::shared_ptr<Dataset> dataset, std::size_t index)
      : dataset_(std::move(dataset)),
        index_(index),
        future_(Access<Dataset>::start(*dataset_, index)) {
    if constexpr (requires { future_.valid(); }) {
      TORCH_CHECK(future_.valid(), "DataLoader: get_async(", index,
                  ") gave a future without a state; take it from a std::promise or std::async");
    }
  }
  // A deferred one does its work in `take`. What a program's own type throws is the sample's.
  bool wait_for(std::chrono::milliseconds limit) override {
    try {
      return error_ != nullptr || future_.wait_for(limit) != std::future_status::timeout;
    } catch (...) {
      error_ = std::current_exception();
      return true;
    }
  }
  SampleTree take(SampleRandom& random) override {
    if (error_) std::rethrow_exception(error_);
    static_assert(
        std::is_same_v<Sample, std::remove_cvref_t<decltype(Access<Dataset>::take(
                                   *dataset_, index_, future_, random))>>,
        "DataLoader: the future of a dataset's get_async gives what get returns; or the dataset "
        "has decode(index, value, random), which makes that of the future's value");
    return SampleCodec<Sample>::to_tree(Access<Dataset>::take(*dataset_, index_, future_, random));
  }

 private:
  std::shared_ptr<Dataset> dataset_;
  std::size_t index_;
  Future future_;
  std::exception_ptr error_;
};

/// The batch that a loader delivers, of what the transforms have made.
template <class Made, class Collate>
SampleTree tree_of_batch(Made made, Collate& collate) {
  if constexpr (!std::is_same_v<Collate, StackSamples>) {
    using Batch = typename BatchOfMade<Made, Collate>::Type;
    return SampleCodec<Batch>::to_tree(collate(std::move(made)));
  } else if constexpr (IsVector<Made>::value) {
    std::vector<SampleTree> samples;
    samples.reserve(made.size());
    for (auto& sample : made) {
      samples.push_back(SampleCodec<typename Made::value_type>::to_tree(std::move(sample)));
    }
    return stack(std::move(samples));
  } else {
    return SampleCodec<Made>::to_tree(std::move(made));
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
    source.collate = [dataset, collate = std::move(collate)](
                         std::vector<SampleTree> trees) mutable -> SampleTree {
      std::vector<Sample> samples;
      samples.reserve(trees.size());
      for (auto& tree : trees) {
        samples.push_back(SampleCodec<Sample>::from_tree(std::move(tree)));
      }
      if constexpr (kFinishes) {
        return tree_of_batch(Access<Dataset>::finish(*dataset, std::move(samples)), collate);
      } else {
        return tree_of_batch(std::move(samples), collate);
      }
    };
  }
}

template <class Dataset>
void add_samples(SampleSource& source, const std::shared_ptr<Dataset>& dataset) {
  using Sample = typename SampleOf<Dataset>::Type;
  source.get = [dataset](std::size_t index, SampleRandom& random) {
    return SampleCodec<Sample>::to_tree(Access<Dataset>::get(*dataset, index, random));
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
  if constexpr (NamesItsFiles<Innermost>) {
    source.files = [dataset](std::size_t index, FileParts& parts) {
      Access<Dataset>::innermost(*dataset).files_of(index, parts);
    };
  }
  if constexpr (Access<Dataset>::kIsAsync) {
    source.start = [dataset](std::size_t index) -> std::unique_ptr<PendingSample> {
      return std::make_unique<PendingOf<Dataset>>(dataset, index);
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

}  // namespace lockstep::data::detail
