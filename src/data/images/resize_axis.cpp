// SPDX-License-Identifier: BSD-3-Clause
#include "data/images/resize_axis.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace lockstep::data {
namespace {

constexpr std::int32_t kOne = 1 << ResizeAxis::kBits;

// Rounds the running sums, not the weights, so the whole is exact however many there are.
void to_whole_numbers(const std::vector<double>& exact, std::int16_t* weights) {
  double total = 0;
  for (const double weight : exact) total += weight;
  double sum = 0;
  std::int32_t given = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    sum += exact[i];
    const auto upto = static_cast<std::int32_t>(std::lround(sum / total * kOne));
    weights[i] = static_cast<std::int16_t>(upto - given);
    given = upto;
  }
}

}  // namespace

ResizeAxis::ResizeAxis(std::int64_t input, double start, double length, std::int64_t output,
                       For use)
    : first_(static_cast<std::size_t>(output)) {
  const double ratio = length / static_cast<double>(output);
  const double reach = std::max(ratio, 1.0);
  struct Span {
    std::int64_t begin, end;
  };
  const auto centre_of = [&](std::int64_t pixel) {
    return start + (static_cast<double>(pixel) + 0.5) * ratio;
  };
  // Pixels whose centres are nearer than `reach`. A pixel outside of the box counts for nothing
  // when the box ends between pixels, and else is not there.
  const auto box_begin = static_cast<std::int64_t>(std::floor(start));
  const auto box_end = std::min(input, static_cast<std::int64_t>(std::ceil(start + length)));
  const auto span_of = [&](double centre) {
    const auto begin = static_cast<std::int64_t>(std::floor(centre - reach + 0.5));
    const auto end = static_cast<std::int64_t>(std::floor(centre + reach + 0.5));
    return Span{std::max(begin, box_begin), std::min(end, box_end)};
  };
  for (std::int64_t pixel = 0; pixel < output; ++pixel) {
    const auto span = span_of(centre_of(pixel));
    taps_ = std::max(taps_, static_cast<int>(span.end - span.begin));
  }
  taps_ = std::max(taps_, 1);
  weights_.assign(static_cast<std::size_t>(output * taps_), 0);
  std::vector<double> exact(static_cast<std::size_t>(taps_));
  begin_ = input;
  for (std::int64_t pixel = 0; pixel < output; ++pixel) {
    const double centre = centre_of(pixel);
    auto [begin, end] = span_of(centre);
    // All weights must lie inside the line.
    begin = std::clamp<std::int64_t>(begin, 0, input - taps_);
    for (int tap = 0; tap < taps_; ++tap) {
      const auto at = begin + tap;
      const double distance = std::abs(static_cast<double>(at) + 0.5 - centre) / reach;
      const bool is_inside = at >= box_begin && at < end;
      exact[static_cast<std::size_t>(tap)] = is_inside ? std::max(0.0, 1.0 - distance) : 0.0;
    }
    to_whole_numbers(exact, weights_.data() + pixel * taps_);
    first_[static_cast<std::size_t>(pixel)] = begin;
    begin_ = std::min(begin_, begin);
    end_ = std::max(end_, begin + taps_);
  }
  if (use == For::Columns) fill_quad_weights();
}

void ResizeAxis::fill_quad_weights() {
  constexpr std::size_t kQuad = 16;
  const auto row = static_cast<std::size_t>(quads()) * kQuad;
  quad_weights_.assign(first_.size() * row, 0);
  for (std::size_t pixel = 0; pixel < first_.size(); ++pixel) {
    const auto* from = weights(static_cast<std::int64_t>(pixel));
    for (std::size_t tap = 0; tap < static_cast<std::size_t>(taps_); ++tap) {
      const auto pair = tap / 2 % 2;
      auto* to = quad_weights_.data() + pixel * row + tap / 4 * kQuad + pair * 8 + tap % 2;
      for (std::size_t channel = 0; channel < 4; ++channel) to[2 * channel] = from[tap];
    }
  }
}

}  // namespace lockstep::data
