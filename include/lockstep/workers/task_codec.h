// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/payload.h>
#include <lockstep/workers/result_codec.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

/// @file
/// What may be an argument or the result of a task of a `TaskPool`: `torch::Tensor`, trivially
/// copyable types, `std::string`, what a program has specialised `ResultCodec` for, and vectors,
/// arrays, optionals, pairs, tuples and maps of these. Pointers, `std::string_view` and `std::span`
/// are not: what they lead to stays in the process that has it.
///
/// Thread-safety: several threads may call the functions at the same time.

namespace lockstep::workers {

/// @cond codecs of the library

template <class T>
struct TaskCodec;

template <class T>
concept TaskValue = requires(PayloadWriter& writer, PayloadReader& reader, const T& value) {
  TaskCodec<T>::write(writer, value);
  { TaskCodec<T>::read(reader) } -> std::convertible_to<T>;
};

template <class T>
inline constexpr bool leads_elsewhere =
    std::is_pointer_v<T> || std::is_member_pointer_v<T> || std::is_null_pointer_v<T>;
template <class Character, class Traits>
inline constexpr bool leads_elsewhere<std::basic_string_view<Character, Traits>> = true;
template <class T, std::size_t kExtent>
inline constexpr bool leads_elsewhere<std::span<T, kExtent>> = true;
template <class T>
inline constexpr bool leads_elsewhere<std::reference_wrapper<T>> = true;
template <class T>
inline constexpr bool leads_elsewhere<std::optional<T>> = leads_elsewhere<T>;
template <class T, std::size_t kCount>
inline constexpr bool leads_elsewhere<std::array<T, kCount>> = leads_elsewhere<T>;

template <class T>
inline constexpr bool leads_elsewhere<std::initializer_list<T>> = true;
template <class... Alternatives>
inline constexpr bool leads_elsewhere<std::variant<Alternatives...>> =
    (leads_elsewhere<Alternatives> || ...);

template <class T>
concept PlainCodec = requires {
  requires ResultCodec<T>::kIsPlain;
};

/// Of a trivially copyable type: whether the program has a codec for it, or for what it consists
/// of.
template <class T>
inline constexpr bool has_own_codec = !PlainCodec<T>;
template <class T>
inline constexpr bool has_own_codec<std::optional<T>> = has_own_codec<T>;
template <class T, std::size_t kCount>
inline constexpr bool has_own_codec<std::array<T, kCount>> = has_own_codec<T>;
template <class... Alternatives>
inline constexpr bool has_own_codec<std::variant<Alternatives...>> = (has_own_codec<Alternatives> ||
                                                                      ...);

template <class T>
concept PlainValue = std::is_trivially_copyable_v<T> && !leads_elsewhere<T> && !has_own_codec<T>;

/// A type for which a program has specialised `ResultCodec`, or `std::string`.
template <class T>
concept CodedValue = !PlainCodec<T> && ResultType<T>;

/// A trivially copyable value, which need not have a default constructor.
template <class T>
T value_of_bytes(std::string_view bytes) {
  union Place {
    Place() : nothing() {}
    char nothing;
    T value;
  } place;
  std::memcpy(static_cast<void*>(&place.value), bytes.data(), sizeof(T));
  return place.value;
}

template <PlainValue T>
struct TaskCodec<T> {
  static void write(PayloadWriter& writer, const T& value) { writer.write_value(value); }
  static T read(PayloadReader& reader) { return value_of_bytes<T>(reader.read(sizeof(T))); }
};

template <CodedValue T>
struct TaskCodec<T> {
  static void write(PayloadWriter& writer, const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      writer.write_text(value);
    } else {
      writer.write_text(ResultCodec<T>::to_bytes(value));
    }
  }
  static T read(PayloadReader& reader) { return ResultCodec<T>::from_bytes(reader.read_text()); }
};

template <>
struct TaskCodec<std::filesystem::path> {
  static void write(PayloadWriter& writer, const std::filesystem::path& path) {
    writer.write_text(path.native());
  }
  static std::filesystem::path read(PayloadReader& reader) { return reader.read_text(); }
};

template <TaskValue T>
struct TaskCodec<std::vector<T>> {
  static constexpr bool is_copied_whole =
      PlainValue<T> && std::is_default_constructible_v<T> && !std::is_same_v<T, bool>;

  static void write(PayloadWriter& writer, const std::vector<T>& values) {
    if constexpr (is_copied_whole) {
      writer.write_text({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
    } else {
      writer.write_value<std::uint64_t>(values.size());
      for (const auto& value : values) TaskCodec<T>::write(writer, value);
    }
  }
  static std::vector<T> read(PayloadReader& reader) {
    if constexpr (is_copied_whole) {
      const auto bytes = reader.read_text();
      std::vector<T> values(bytes.size() / sizeof(T));
      if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
      return values;
    } else {
      const auto count = static_cast<std::size_t>(reader.read_value<std::uint64_t>());
      std::vector<T> values;
      if (count <= reader.rest().size()) values.reserve(count);  // an element is a byte or more
      for (std::size_t i = 0; i < count; ++i) values.push_back(TaskCodec<T>::read(reader));
      return values;
    }
  }
};

template <TaskValue T>
requires(!PlainValue<std::optional<T>>) struct TaskCodec<std::optional<T>> {
  static void write(PayloadWriter& writer, const std::optional<T>& value) {
    writer.write_value(value.has_value());
    if (value) TaskCodec<T>::write(writer, *value);
  }
  static std::optional<T> read(PayloadReader& reader) {
    if (!reader.read_value<bool>()) return std::nullopt;
    return TaskCodec<T>::read(reader);
  }
};

template <class Tuple, class... Elements>
struct TupleCodec {
  static void write(PayloadWriter& writer, const Tuple& values) {
    std::apply([&](const auto&... each) { (TaskCodec<Elements>::write(writer, each), ...); },
               values);
  }
  // In braces, so that the elements are read from left to right.
  static Tuple read(PayloadReader& reader) { return Tuple{TaskCodec<Elements>::read(reader)...}; }
};

template <TaskValue First, TaskValue Second>
struct TaskCodec<std::pair<First, Second>> : TupleCodec<std::pair<First, Second>, First, Second> {};

template <TaskValue... Elements>
requires(!std::is_trivially_copyable_v<std::tuple<Elements...>>) struct TaskCodec<
    std::tuple<Elements...>> : TupleCodec<std::tuple<Elements...>, Elements...> {
};

template <TaskValue T, std::size_t kCount>
requires(!PlainValue<std::array<T, kCount>>) struct TaskCodec<std::array<T, kCount>> {
  static void write(PayloadWriter& writer, const std::array<T, kCount>& values) {
    for (const T& value : values) TaskCodec<T>::write(writer, value);
  }
  static std::array<T, kCount> read(PayloadReader& reader) {
    return read_each(reader, std::make_index_sequence<kCount>());
  }

 private:
  template <std::size_t... kIndices>
  static std::array<T, kCount> read_each(PayloadReader& reader, std::index_sequence<kIndices...>) {
    return {(static_cast<void>(kIndices), TaskCodec<T>::read(reader))...};
  }
};

template <class Map>
struct MapCodec {
  using Key = typename Map::key_type;
  using Mapped = typename Map::mapped_type;

  static void write(PayloadWriter& writer, const Map& values) {
    writer.write_value<std::uint64_t>(values.size());
    for (const auto& [key, value] : values) {
      TaskCodec<Key>::write(writer, key);
      TaskCodec<Mapped>::write(writer, value);
    }
  }
  static Map read(PayloadReader& reader) {
    Map values;
    for (auto count = reader.read_value<std::uint64_t>(); count != 0; --count) {
      auto key = TaskCodec<Key>::read(reader);
      values.emplace(std::move(key), TaskCodec<Mapped>::read(reader));
    }
    return values;
  }
};

template <TaskValue Key, TaskValue Mapped>
struct TaskCodec<std::map<Key, Mapped>> : MapCodec<std::map<Key, Mapped>> {};
template <TaskValue Key, TaskValue Mapped>
struct TaskCodec<std::unordered_map<Key, Mapped>> : MapCodec<std::unordered_map<Key, Mapped>> {};

/// @endcond

}  // namespace lockstep::workers
