// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <array>
#include <cstdint>
#include <span>

namespace lockstep::data::detail {

/// A shuffle of [0, size) of which each place can be asked for by itself: nothing of length `size`
/// is ever made. Seed, epoch and stream decide it, the same on all machines.
///
/// Both directions take a few dozen nanoseconds at any size; the object has some hundred bytes.
///
/// Thread-safety: a value; const members may be called from several threads.
/// Source: the generalised Feistel cipher of Black and Rogaway, "Ciphers with arbitrary finite
/// domains" (2002): two digits of different bases, the product of which is little more than `size`,
/// and walks along the cycle until a number is below `size`. Round keys are Philox's
/// (`SampleRandom`), the round function is SplitMix64's finaliser. It is for statistics, not for
/// secrets.
class LOCKSTEP_API KeyedPermutation {
 public:
  /// The largest `size`.
  static constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 62;

  /// `stream` tells apart shuffles that one seed and epoch must have side by side.
  /// Throws: `c10::Error` when `size` is not from 1 to `kMaxSize`, `epoch` is negative, or `stream`
  /// is not below 2^62.
  KeyedPermutation(std::uint64_t size, std::uint64_t seed, std::int64_t epoch,
                   std::uint64_t stream = 0);

  /// How many numbers are shuffled.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// What stands at this position.
  /// Throws: `c10::Error` when `position` is not below `size()`.
  [[nodiscard]] std::uint64_t operator()(std::uint64_t position) const;
  /// Writes what stands at `position`, `position + step`, ... to all of `indices`: the same in half
  /// the time.
  /// Throws: `c10::Error` when one of these positions is not below `size()`.
  void fill(std::span<std::int64_t> indices, std::uint64_t position, std::uint64_t step = 1) const;
  /// Where `index` stands.
  /// Throws: `c10::Error` when `index` is not below `size()`.
  [[nodiscard]] std::uint64_t position_of(std::uint64_t index) const;

 private:
  static constexpr std::size_t kRounds = 12;  // more than Luby and Rackoff's 4: digits are short

  // Numbers that are worked out side by side: a round waits for the one before it, and a core can
  // multiply for another number meanwhile.
  static constexpr std::size_t kSideBySide = 4;

  [[nodiscard]] std::uint64_t forward(std::uint64_t value) const noexcept;
  template <std::size_t Count>
  void forward(std::array<std::uint64_t, Count>& low,
               std::array<std::uint64_t, Count>& high) const noexcept;
  [[nodiscard]] std::uint64_t below_size(std::uint64_t value) const noexcept;
  [[nodiscard]] std::uint64_t backward(std::uint64_t value) const noexcept;

  std::uint64_t size_;
  // Bases of the two digits. The lower one is even, or every shuffle would be an even permutation
  // of the digits' numbers.
  std::uint64_t low_base_;
  std::uint64_t high_base_;
  std::array<std::uint64_t, kRounds> keys_{};
};

}  // namespace lockstep::data::detail
