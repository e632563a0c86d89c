// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::data {

/// Says how much each pixel of a line counts for each pixel of the resized line: a triangle around
/// the pixel's centre, whose half width is the ratio of the sizes, or 1 where the line becomes
/// longer.
///
/// All pixels have the same number of weights, some of which may be 0, and each one's add up to
/// 2^kBits exactly, so a line of one value keeps it.
class ResizeAxis {
 public:
  static constexpr int kBits = 14;

  /// The direction of the line.
  enum class For : std::uint8_t {
    Columns,  ///< along a row; with `quad_weights`, which take four times the weights' memory
    Rows,
  };

  /// Resizes `length` pixels at `start`, in a line of `input` pixels, to `output` pixels.
  ResizeAxis(std::int64_t input, double start, double length, std::int64_t output, For use);

  [[nodiscard]] std::int64_t size() const noexcept {
    return static_cast<std::int64_t>(first_.size());
  }
  /// For each pixel, the first that counts.
  [[nodiscard]] const std::int64_t* first() const noexcept { return first_.data(); }
  [[nodiscard]] int taps() const noexcept { return taps_; }
  /// `taps()` numbers.
  [[nodiscard]] const std::int16_t* weights(std::int64_t pixel) const noexcept {
    return weights_.data() + pixel * taps_;
  }
  /// All pixels that count lie in [begin, end).
  [[nodiscard]] std::int64_t begin() const noexcept { return begin_; }
  [[nodiscard]] std::int64_t end() const noexcept { return end_; }

  /// A quarter of the taps, rounded up.
  [[nodiscard]] int quads() const noexcept { return (taps_ + 3) / 4; }
  /// The weights once more as vector instructions take them: for each four the first two and then
  /// the last two alternating, four times, 0 for those that are not there. Only columns have them.
  [[nodiscard]] const std::int16_t* quad_weights() const noexcept { return quad_weights_.data(); }

 private:
  void fill_quad_weights();

  int taps_ = 0;
  std::vector<std::int64_t> first_;
  std::vector<std::int16_t> weights_;
  std::vector<std::int16_t> quad_weights_;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
};

}  // namespace lockstep::data
