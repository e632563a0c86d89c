// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/samples/value.h>
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

/// How types of samples become a `Value`, and a `Value` becomes the type of a batch. To add a type
/// of your own, specialise `SampleCodec` for it.
namespace lockstep::data {

/// Members: `Batch`, the type of a batch of such samples; `kHasRows`, whether all parts of a sample
/// are tensors of fixed shape, so that each sample can be written into its row of the batch on its
/// own; `to_value(sample)`; `to_batch(value)` for a stack of them; `from_value(value)` for one.
template <class T>
struct SampleCodec;

template <class T>
concept SampleType = requires(const T& sample, Value value) {
  typename SampleCodec<T>::Batch;
  { SampleCodec<T>::kHasRows } -> std::convertible_to<bool>;
  { SampleCodec<T>::to_value(sample) } -> std::convertible_to<Value>;
  {SampleCodec<T>::to_batch(std::move(value))};
  { SampleCodec<T>::from_value(std::move(value)) } -> std::convertible_to<T>;
};

/// The same for what a function gives, which may be a reference.
template <class T>
concept GivesSample = SampleType<std::remove_cvref_t<T>>;

template <>
struct SampleCodec<Value> {
  using Batch = Value;
  static constexpr bool kHasRows = false;
  static Value to_value(Value sample) { return sample; }
  static Value to_batch(Value batch) { return batch; }
  static Value from_value(Value value) { return value; }
};

template <>
struct SampleCodec<at::Tensor> {
  using Batch = at::Tensor;
  static constexpr bool kHasRows = true;
  static Value to_value(const at::Tensor& sample) { return sample; }
  static at::Tensor to_batch(const Value& batch) { return batch.tensor(); }
  static at::Tensor from_value(const Value& value) { return value.tensor(); }
};

template <>
struct SampleCodec<std::string> {
  using Batch = std::vector<std::string>;
  static constexpr bool kHasRows = false;
  static Value to_value(const std::string& sample) { return sample; }
  static Batch to_batch(const Value& batch) {
    Batch result;
    for (const auto& child : batch.list()) result.push_back(child.text());
    return result;
  }
  static std::string from_value(const Value& value) { return value.text(); }
};

template <>
struct SampleCodec<Bytes> {
  using Batch = std::vector<Bytes>;
  static constexpr bool kHasRows = false;
  static Value to_value(const Bytes& sample) { return sample; }
  static Batch to_batch(const Value& batch) {
    Batch result;
    for (const auto& child : batch.list()) result.push_back(child.bytes());
    return result;
  }
  static Bytes from_value(const Value& value) { return value.bytes(); }
};

/// A number becomes a tensor without dimensions of the same type; a batch of them has one.
template <NumberType T>
struct SampleCodec<T> {
  using Batch = at::Tensor;
  static constexpr bool kHasRows = true;
  static Value to_value(T sample) { return sample; }
  static at::Tensor to_batch(const Value& batch) { return batch.tensor(); }
  static T from_value(const Value& value) {
    return static_cast<T>(value.tensor().item().to<detail::ScalarOf<T>>());
  }
};

template <SampleType Data, SampleType Target>
struct SampleCodec<torch::data::Example<Data, Target>> {
  using Batch =
      torch::data::Example<typename SampleCodec<Data>::Batch, typename SampleCodec<Target>::Batch>;
  static constexpr bool kHasRows = SampleCodec<Data>::kHasRows && SampleCodec<Target>::kHasRows;
  static Value to_value(const torch::data::Example<Data, Target>& sample) {
    Value::List parts;
    parts.reserve(2);
    parts.push_back(SampleCodec<Data>::to_value(sample.data));
    parts.push_back(SampleCodec<Target>::to_value(sample.target));
    return parts;
  }
  static Batch to_batch(const Value& batch) {
    return {SampleCodec<Data>::to_batch(batch[0]), SampleCodec<Target>::to_batch(batch[1])};
  }
  static torch::data::Example<Data, Target> from_value(const Value& value) {
    return {SampleCodec<Data>::from_value(value[0]), SampleCodec<Target>::from_value(value[1])};
  }
};

template <SampleType Data>
struct SampleCodec<torch::data::Example<Data, torch::data::example::NoTarget>> {
  using Sample = torch::data::Example<Data, torch::data::example::NoTarget>;
  using Batch =
      torch::data::Example<typename SampleCodec<Data>::Batch, torch::data::example::NoTarget>;
  static constexpr bool kHasRows = SampleCodec<Data>::kHasRows;
  static Value to_value(const Sample& sample) { return SampleCodec<Data>::to_value(sample.data); }
  static Batch to_batch(const Value& batch) { return SampleCodec<Data>::to_batch(batch); }
  static Sample from_value(const Value& value) { return SampleCodec<Data>::from_value(value); }
};

template <SampleType T>
struct SampleCodec<std::vector<T>> {
  using Batch = std::vector<typename SampleCodec<T>::Batch>;
  static constexpr bool kHasRows = SampleCodec<T>::kHasRows;
  static Value to_value(const std::vector<T>& sample) {
    Value::List parts;
    for (const auto& part : sample) parts.push_back(SampleCodec<T>::to_value(part));
    return parts;
  }
  static Batch to_batch(const Value& batch) {
    Batch result;
    for (const auto& part : batch.list()) result.push_back(SampleCodec<T>::to_batch(part));
    return result;
  }
  static std::vector<T> from_value(const Value& value) {
    std::vector<T> result;
    for (const auto& part : value.list()) result.push_back(SampleCodec<T>::from_value(part));
    return result;
  }
};

template <SampleType... T>
struct SampleCodec<std::tuple<T...>> {
  using Batch = std::tuple<typename SampleCodec<T>::Batch...>;
  static constexpr bool kHasRows = (SampleCodec<T>::kHasRows && ...);
  static Value to_value(const std::tuple<T...>& sample) {
    return std::apply(
        [](const auto&... parts) { return Value(Value::List{SampleCodec<T>::to_value(parts)...}); },
        sample);
  }
  static Batch to_batch(const Value& batch) {
    return [&]<std::size_t... Number>(std::index_sequence<Number...>) {
      return Batch{SampleCodec<T>::to_batch(batch[Number])...};
    }
    (std::index_sequence_for<T...>{});
  }
  static std::tuple<T...> from_value(const Value& value) {
    return [&]<std::size_t... Number>(std::index_sequence<Number...>) {
      return std::tuple<T...>{SampleCodec<T>::from_value(value[Number])...};
    }
    (std::index_sequence_for<T...>{});
  }
};

template <SampleType First, SampleType Second>
struct SampleCodec<std::pair<First, Second>> {
  using Batch = std::pair<typename SampleCodec<First>::Batch, typename SampleCodec<Second>::Batch>;
  static constexpr bool kHasRows = SampleCodec<First>::kHasRows && SampleCodec<Second>::kHasRows;
  static Value to_value(const std::pair<First, Second>& sample) {
    return Value::List{SampleCodec<First>::to_value(sample.first),
                       SampleCodec<Second>::to_value(sample.second)};
  }
  static Batch to_batch(const Value& batch) {
    return {SampleCodec<First>::to_batch(batch[0]), SampleCodec<Second>::to_batch(batch[1])};
  }
  static std::pair<First, Second> from_value(const Value& value) {
    return {SampleCodec<First>::from_value(value[0]), SampleCodec<Second>::from_value(value[1])};
  }
};

namespace detail {

template <class Map>
struct MapCodec {
  using Part = SampleCodec<typename Map::mapped_type>;
  static constexpr bool kHasRows = Part::kHasRows;
  static Value to_value(const Map& sample) {
    Value::Map parts;
    for (const auto& [key, part] : sample) parts.emplace(key, Part::to_value(part));
    return parts;
  }
  template <class Batch>
  static Batch to(const Value& batch) {
    Batch result;
    for (const auto& [key, part] : batch.map()) result.emplace(key, Part::to_batch(part));
    return result;
  }
  static Map from_value(const Value& value) {
    Map result;
    for (const auto& [key, part] : value.map()) result.emplace(key, Part::from_value(part));
    return result;
  }
};

}  // namespace detail

template <SampleType T>
struct SampleCodec<std::map<std::string, T>> : detail::MapCodec<std::map<std::string, T>> {
  using Batch = std::map<std::string, typename SampleCodec<T>::Batch>;
  static Batch to_batch(const Value& batch) {
    return detail::MapCodec<std::map<std::string, T>>::template to<Batch>(batch);
  }
};

template <SampleType T>
struct SampleCodec<std::unordered_map<std::string, T>>
    : detail::MapCodec<std::unordered_map<std::string, T>> {
  using Batch = std::unordered_map<std::string, typename SampleCodec<T>::Batch>;
  static Batch to_batch(const Value& batch) {
    return detail::MapCodec<std::unordered_map<std::string, T>>::template to<Batch>(batch);
  }
};

}  // namespace lockstep::data
