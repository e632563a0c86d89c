// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace lockstep::workers {

/// How a result of a `WorkerPool` becomes bytes in a worker and comes back in the program. The
/// library has it for trivially copyable types, `std::string`, and vectors of these. A program
/// specialises it for a type of its own:
///
///     struct Page { std::string title; int links; };
///
///     template <>
///     struct lockstep::workers::ResultCodec<Page> {
///       static std::string to_bytes(const Page& page) {
///         return std::to_string(page.links) + ' ' + page.title;
///       }
///       static Page from_bytes(std::string_view bytes) {
///         const auto blank = bytes.find(' ');
///         return {std::string(bytes.substr(blank + 1)),
///                 std::stoi(std::string(bytes.substr(0, blank)))};
///       }
///     };
///
/// Both functions run in programs of one build on one host, so byte order and padding do not
/// matter.
///
/// Thread-safety: several threads may call the functions at the same time.
/// Throws: what `to_bytes` throws becomes the `TaskError` of that item; what `from_bytes` throws
/// comes out of the pool's call.
template <class T>
struct ResultCodec;

/// A type that the function of a `WorkerPool` may return: one with a complete `ResultCodec`.
template <class T>
concept ResultType = requires(const T& result, std::string_view bytes) {
  { ResultCodec<T>::to_bytes(result) } -> std::convertible_to<std::string>;
  { ResultCodec<T>::from_bytes(bytes) } -> std::convertible_to<T>;
};

/// @cond codecs of the library
template <class T>
requires std::is_trivially_copyable_v<T>
struct ResultCodec<T> {
  /// A program that specialises this type has a codec without it.
  static constexpr bool kIsPlain = true;

  static std::string to_bytes(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static T from_bytes(std::string_view bytes) {
    if (bytes.size() != sizeof(T)) throw std::runtime_error("a worker's result is damaged");
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
};

template <>
struct ResultCodec<std::string> {
  static std::string to_bytes(std::string value) { return value; }
  static std::string from_bytes(std::string_view bytes) { return std::string(bytes); }
};

template <ResultType T>
struct ResultCodec<std::vector<T>> {
  static std::string to_bytes(const std::vector<T>& values) {
    std::string bytes;
    for (const auto& value : values) {
      const auto part = ResultCodec<T>::to_bytes(value);
      bytes += ResultCodec<std::uint64_t>::to_bytes(part.size());
      bytes += part;
    }
    return bytes;
  }
  static std::vector<T> from_bytes(std::string_view bytes) {
    std::vector<T> values;
    while (!bytes.empty()) {
      const auto size = ResultCodec<std::uint64_t>::from_bytes(bytes.substr(0, 8));
      bytes.remove_prefix(8);
      if (size > bytes.size()) throw std::runtime_error("a worker's result is damaged");
      values.push_back(ResultCodec<T>::from_bytes(bytes.substr(0, size)));
      bytes.remove_prefix(size);
    }
    return values;
  }
};
/// @endcond

}  // namespace lockstep::workers
