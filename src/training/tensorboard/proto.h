// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

/// @file
/// The few forms of protobuf that event files are made of, appended to `Out`: a `std::string`, or a
/// `SmallBuffer`, which allocates nothing. Fields stand in the order of their numbers, as protobuf
/// writes them.
///
/// Source: https://protobuf.dev/programming-guides/encoding

namespace lockstep::training {

/// Bytes on the stack, as far as they are known to fit.
template <std::size_t Capacity>
class SmallBuffer {
 public:
  static constexpr std::size_t kCapacity = Capacity;
  void push_back(char c) noexcept { bytes_[size_++] = c; }
  void append(const char* data, std::size_t bytes) noexcept {
    std::memcpy(bytes_.data() + size_, data, bytes);
    size_ += bytes;
  }
  [[nodiscard]] char* data() noexcept { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::array<char, Capacity> bytes_;  // not initialised: it is written before it is read
  std::size_t size_ = 0;
};

namespace proto {

enum class Wire : std::uint32_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

[[nodiscard]] constexpr std::size_t varint_bytes(std::uint64_t value) noexcept {
  return (static_cast<std::size_t>(std::bit_width(value | 1U)) + 6) / 7;
}

/// Of a field of `bytes` with a number below 16.
[[nodiscard]] constexpr std::size_t field_bytes(std::size_t bytes) noexcept {
  return 1 + varint_bytes(bytes) + bytes;
}

template <typename Out>
void put_varint(Out& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80U));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

template <typename Out>
void put_key(Out& out, std::uint32_t field, Wire wire) {
  put_varint(out, field << 3 | static_cast<std::uint32_t>(wire));
}

/// Little-endian, whatever the machine is.
template <typename Out, typename Word>
void put_word(Out& out, Word word) {
  std::array<char, sizeof(Word)> bytes{};
  for (std::size_t i = 0; i < sizeof(Word); ++i) bytes[i] = static_cast<char>(word >> (8 * i));
  out.append(bytes.data(), bytes.size());
}

/// Zero is left out, as protobuf does.
template <typename Out>
void put_number(Out& out, std::uint32_t field, std::int64_t value) {
  if (value == 0) return;
  put_key(out, field, Wire::Varint);
  put_varint(out, static_cast<std::uint64_t>(value));
}

template <typename Out>
void put_double(Out& out, std::uint32_t field, double value) {
  put_key(out, field, Wire::Fixed64);
  put_word(out, std::bit_cast<std::uint64_t>(value));
}

/// Zero is left out.
template <typename Out>
void put_nonzero_double(Out& out, std::uint32_t field, double value) {
  if (std::bit_cast<std::uint64_t>(value) != 0) put_double(out, field, value);
}

template <typename Out>
void put_float(Out& out, std::uint32_t field, float value) {
  put_key(out, field, Wire::Fixed32);
  put_word(out, std::bit_cast<std::uint32_t>(value));
}

/// The key and the length of what follows: text, or a message.
template <typename Out>
void put_head(Out& out, std::uint32_t field, std::size_t bytes) {
  put_key(out, field, Wire::Bytes);
  put_varint(out, bytes);
}

template <typename Out>
void put_bytes(Out& out, std::uint32_t field, std::string_view bytes) {
  put_head(out, field, bytes.size());
  out.append(bytes.data(), bytes.size());
}

}  // namespace proto
}  // namespace lockstep::training
