// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace lockstep::workers {

/// How a result of a `WorkerPool` becomes bytes and comes back. Specialise it for a type of your
/// own.
template <class T>
struct ResultCodec {
  static_assert(std::is_trivially_copyable_v<T>,
                "a result must be trivially copyable, a std::string, or a vector of these; or "
                "specialise lockstep::workers::ResultCodec for it");
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

template <class T>
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

}  // namespace lockstep::workers
