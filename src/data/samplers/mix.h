// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep::data {

/// A bijection of 64-bit numbers in which each bit of the result depends on all bits given.
/// Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014), with Stafford's constants "Mix13".
constexpr std::uint64_t mix(std::uint64_t value) noexcept {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9U;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBU;
  return value ^ (value >> 31);
}

/// Says in 64 bits what decides an order, so that a state saved with one order is not used with
/// another. Not against people who mean harm. The same on all machines and in all versions.
class OrderFingerprint {
 public:
  explicit OrderFingerprint(std::string_view kind) noexcept {
    for (const char c : kind) add(static_cast<unsigned char>(c));
  }
  OrderFingerprint& add(std::uint64_t value) noexcept {
    state_ = mix((state_ ^ value) + 0x9E3779B97F4A7C15U);
    return *this;
  }
  [[nodiscard]] std::uint64_t value() const noexcept { return state_; }

 private:
  std::uint64_t state_ = 0x243F6A8885A308D3U;
};

}  // namespace lockstep::data
