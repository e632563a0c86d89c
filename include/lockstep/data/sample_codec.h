// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/samples/sample_tree.h>
#include <torch/data/example.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lockstep::data {

/// How samples of type `T` become a `SampleTree` and come back, alone and as a batch. The library
/// has it for tensors, numbers, strings, `Bytes`, `SampleTree`, `torch::data::Example`, and
/// vectors, tuples, pairs and maps of these. A program specialises it for a type of its own:
///
///     struct Box { float x, y, width, height; };
///
///     template <>
///     struct lockstep::data::SampleCodec<Box> {
///       using Batch = at::Tensor;                       // what a batch of such samples is
///       static constexpr bool kHasRows = true;          // see below
///       static SampleTree to_tree(const Box& box) {     // one sample, in a worker
///         return torch::tensor({box.x, box.y, box.width, box.height});
///       }
///       static Batch to_batch(const SampleTree& tree) { return tree.tensor(); }
///       static Box from_tree(const SampleTree& tree) {  // one sample, for a collate function
///         const auto row = tree.tensor();
///         return {row[0].item<float>(), row[1].item<float>(), row[2].item<float>(),
///                 row[3].item<float>()};
///       }
///     };
///
/// `kHasRows` says that all leaves of a sample are tensors whose shapes and dtypes are those of the
/// first sample; each sample is then written into its row of the batch by the worker that made it.
/// Without it, samples are stacked when all of them are there.
///
/// Shapes: `to_batch` is given what `stack` makes of `n` trees: tensors {n, ...}, lists of `n`
/// strings or bytes.
/// Blocks: `to_tree` runs in a worker, `to_batch` in the program's thread for each batch.
/// Thread-safety: several threads may call the functions at the same time.
/// Throws: what `to_tree` throws is treated like an exception of the dataset; what `to_batch`
/// throws comes out of the loop over the loader.
template <class T>
struct SampleCodec;

/// A type that a dataset may return: one with a complete `SampleCodec`.
template <class T>
concept SampleType = requires(const T& sample, SampleTree tree) {
  typename SampleCodec<T>::Batch;
  { SampleCodec<T>::kHasRows } -> std::convertible_to<bool>;
  { SampleCodec<T>::to_tree(sample) } -> std::convertible_to<SampleTree>;
  {SampleCodec<T>::to_batch(std::move(tree))};
  { SampleCodec<T>::from_tree(std::move(tree)) } -> std::convertible_to<T>;
};

/// `SampleType` for what a function returns, which may be a reference.
template <class T>
concept GivesSample = SampleType<std::remove_cvref_t<T>>;

/// @cond codecs of the library
template <>
struct SampleCodec<SampleTree> {
  using Batch = SampleTree;
  static constexpr bool kHasRows = false;
  static SampleTree to_tree(SampleTree sample) { return sample; }
  static SampleTree to_batch(SampleTree batch) { return batch; }
  static SampleTree from_tree(SampleTree tree) { return tree; }
};

template <>
struct SampleCodec<at::Tensor> {
  using Batch = at::Tensor;
  static constexpr bool kHasRows = true;
  static SampleTree to_tree(const at::Tensor& sample) { return sample; }
  static at::Tensor to_batch(const SampleTree& batch) { return batch.tensor(); }
  static at::Tensor from_tree(const SampleTree& tree) { return tree.tensor(); }
};

template <>
struct SampleCodec<std::string> {
  using Batch = std::vector<std::string>;
  static constexpr bool kHasRows = false;
  static SampleTree to_tree(const std::string& sample) { return sample; }
  static Batch to_batch(const SampleTree& batch) {
    Batch result;
    for (const auto& child : batch.list()) result.push_back(child.string());
    return result;
  }
  static std::string from_tree(const SampleTree& tree) { return tree.string(); }
};

template <>
struct SampleCodec<Bytes> {
  using Batch = std::vector<Bytes>;
  static constexpr bool kHasRows = false;
  static SampleTree to_tree(const Bytes& sample) { return sample; }
  static Batch to_batch(const SampleTree& batch) {
    Batch result;
    for (const auto& child : batch.list()) result.push_back(child.bytes());
    return result;
  }
  static Bytes from_tree(const SampleTree& tree) { return tree.bytes(); }
};

/// A number becomes a tensor without dimensions, of the same type; a batch of numbers is a tensor
/// with one dimension.
template <NumberType T>
struct SampleCodec<T> {
  using Batch = at::Tensor;
  static constexpr bool kHasRows = true;
  static SampleTree to_tree(T sample) { return sample; }
  static at::Tensor to_batch(const SampleTree& batch) { return batch.tensor(); }
  static T from_tree(const SampleTree& tree) {
    return static_cast<T>(tree.tensor().item().to<detail::ScalarOf<T>>());
  }
};

template <SampleType Data, SampleType Target>
struct SampleCodec<torch::data::Example<Data, Target>> {
  using Batch =
      torch::data::Example<typename SampleCodec<Data>::Batch, typename SampleCodec<Target>::Batch>;
  static constexpr bool kHasRows = SampleCodec<Data>::kHasRows && SampleCodec<Target>::kHasRows;
  static SampleTree to_tree(const torch::data::Example<Data, Target>& sample) {
    SampleTree::List parts;
    parts.reserve(2);
    parts.push_back(SampleCodec<Data>::to_tree(sample.data));
    parts.push_back(SampleCodec<Target>::to_tree(sample.target));
    return parts;
  }
  static Batch to_batch(const SampleTree& batch) {
    return {SampleCodec<Data>::to_batch(batch[0]), SampleCodec<Target>::to_batch(batch[1])};
  }
  static torch::data::Example<Data, Target> from_tree(const SampleTree& tree) {
    return {SampleCodec<Data>::from_tree(tree[0]), SampleCodec<Target>::from_tree(tree[1])};
  }
};

template <SampleType Data>
struct SampleCodec<torch::data::Example<Data, torch::data::example::NoTarget>> {
  using Sample = torch::data::Example<Data, torch::data::example::NoTarget>;
  using Batch =
      torch::data::Example<typename SampleCodec<Data>::Batch, torch::data::example::NoTarget>;
  static constexpr bool kHasRows = SampleCodec<Data>::kHasRows;
  static SampleTree to_tree(const Sample& sample) {
    return SampleCodec<Data>::to_tree(sample.data);
  }
  static Batch to_batch(const SampleTree& batch) { return SampleCodec<Data>::to_batch(batch); }
  static Sample from_tree(const SampleTree& tree) { return SampleCodec<Data>::from_tree(tree); }
};

template <SampleType T>
struct SampleCodec<std::vector<T>> {
  using Batch = std::vector<typename SampleCodec<T>::Batch>;
  static constexpr bool kHasRows = SampleCodec<T>::kHasRows;
  static SampleTree to_tree(const std::vector<T>& sample) {
    SampleTree::List parts;
    for (const auto& part : sample) parts.push_back(SampleCodec<T>::to_tree(part));
    return parts;
  }
  static Batch to_batch(const SampleTree& batch) {
    Batch result;
    for (const auto& part : batch.list()) result.push_back(SampleCodec<T>::to_batch(part));
    return result;
  }
  static std::vector<T> from_tree(const SampleTree& tree) {
    std::vector<T> result;
    for (const auto& part : tree.list()) result.push_back(SampleCodec<T>::from_tree(part));
    return result;
  }
};

template <SampleType... T>
struct SampleCodec<std::tuple<T...>> {
  using Batch = std::tuple<typename SampleCodec<T>::Batch...>;
  static constexpr bool kHasRows = (SampleCodec<T>::kHasRows && ...);
  static SampleTree to_tree(const std::tuple<T...>& sample) {
    return std::apply(
        [](const auto&... parts) {
          return SampleTree(SampleTree::List{SampleCodec<T>::to_tree(parts)...});
        },
        sample);
  }
  static Batch to_batch(const SampleTree& batch) {
    return [&]<std::size_t... Number>(std::index_sequence<Number...>) {
      return Batch{SampleCodec<T>::to_batch(batch[Number])...};
    }
    (std::index_sequence_for<T...>{});
  }
  static std::tuple<T...> from_tree(const SampleTree& tree) {
    return [&]<std::size_t... Number>(std::index_sequence<Number...>) {
      return std::tuple<T...>{SampleCodec<T>::from_tree(tree[Number])...};
    }
    (std::index_sequence_for<T...>{});
  }
};

template <SampleType First, SampleType Second>
struct SampleCodec<std::pair<First, Second>> {
  using Batch = std::pair<typename SampleCodec<First>::Batch, typename SampleCodec<Second>::Batch>;
  static constexpr bool kHasRows = SampleCodec<First>::kHasRows && SampleCodec<Second>::kHasRows;
  static SampleTree to_tree(const std::pair<First, Second>& sample) {
    return SampleTree::List{SampleCodec<First>::to_tree(sample.first),
                            SampleCodec<Second>::to_tree(sample.second)};
  }
  static Batch to_batch(const SampleTree& batch) {
    return {SampleCodec<First>::to_batch(batch[0]), SampleCodec<Second>::to_batch(batch[1])};
  }
  static std::pair<First, Second> from_tree(const SampleTree& tree) {
    return {SampleCodec<First>::from_tree(tree[0]), SampleCodec<Second>::from_tree(tree[1])};
  }
};

namespace detail {

template <class Map>
struct MapCodec {
  using Part = SampleCodec<typename Map::mapped_type>;
  static constexpr bool kHasRows = Part::kHasRows;
  static SampleTree to_tree(const Map& sample) {
    SampleTree::Map parts;
    for (const auto& [key, part] : sample) parts.emplace(key, Part::to_tree(part));
    return parts;
  }
  template <class Batch>
  static Batch to(const SampleTree& batch) {
    Batch result;
    for (const auto& [key, part] : batch.map()) result.emplace(key, Part::to_batch(part));
    return result;
  }
  static Map from_tree(const SampleTree& tree) {
    Map result;
    for (const auto& [key, part] : tree.map()) result.emplace(key, Part::from_tree(part));
    return result;
  }
};

}  // namespace detail

template <SampleType T>
struct SampleCodec<std::map<std::string, T>> : detail::MapCodec<std::map<std::string, T>> {
  using Batch = std::map<std::string, typename SampleCodec<T>::Batch>;
  static Batch to_batch(const SampleTree& batch) {
    return detail::MapCodec<std::map<std::string, T>>::template to<Batch>(batch);
  }
};

template <SampleType T>
struct SampleCodec<std::unordered_map<std::string, T>>
    : detail::MapCodec<std::unordered_map<std::string, T>> {
  using Batch = std::unordered_map<std::string, typename SampleCodec<T>::Batch>;
  static Batch to_batch(const SampleTree& batch) {
    return detail::MapCodec<std::unordered_map<std::string, T>>::template to<Batch>(batch);
  }
};
/// @endcond

}  // namespace lockstep::data
