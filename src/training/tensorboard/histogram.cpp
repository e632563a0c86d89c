// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/histogram.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace lockstep::training {
namespace {

constexpr std::int64_t kChunk = 1 << 15;  // elements that are converted at a time

/// The positive limits, and for each interval of doubles with the same exponent and the same five
/// bits behind it the number of limits up to its begin. An interval is narrower than a bucket, so
/// one comparison is left.
class LimitIndex {
 public:
  LimitIndex() {
    // By multiplication, as the Python program has it: the limits have its bits.
    for (double limit = 1e-12; limit < 1e20; limit *= 1.1) limits_.push_back(limit);
    first_cell_ = cell_of(limits_.front());
    const std::uint64_t last = cell_of(limits_.back());
    std::uint16_t below = 0;
    for (std::uint64_t cell = first_cell_; cell <= last; ++cell) {
      const auto begin = std::bit_cast<double>(cell << kShift);
      while (below < limits_.size() && limits_[below] <= begin) ++below;
      below_.push_back(below);
    }
  }

  [[nodiscard]] std::size_t size() const noexcept { return limits_.size(); }
  [[nodiscard]] double operator[](std::size_t i) const noexcept { return limits_[i]; }

  /// How many limits are `value` or less.
  [[nodiscard]] std::size_t up_to(double value) const noexcept {
    if (!(value >= limits_.front())) return 0;
    if (value >= limits_.back()) return limits_.size();
    const std::size_t below = below_[cell_of(value) - first_cell_];
    return below + (limits_[below] <= value ? 1 : 0);
  }

 private:
  static constexpr int kShift = 52 - 5;
  static std::uint64_t cell_of(double value) noexcept {
    return std::bit_cast<std::uint64_t>(value) >> kShift;
  }

  std::vector<double> limits_;
  std::vector<std::uint16_t> below_;
  std::uint64_t first_cell_ = 0;
};

const LimitIndex& limit_index() {
  static const LimitIndex index;
  return index;
}

/// Buckets are numbered from the smallest numbers on: those below all limits, those between two,
/// those above all. A number that is a limit belongs to the bucket on its right, but for the last.
std::size_t bucket_of(double value, const LimitIndex& index) {
  const std::size_t size = index.size();
  if (value >= 0) {
    const std::size_t up_to = index.up_to(value);
    const bool is_last_limit = up_to == size && value == index[size - 1];
    return 1 + size + up_to - (is_last_limit ? 1 : 0);
  }
  std::size_t below = index.up_to(-value);
  if (below > 0 && index[below - 1] == -value) --below;
  return size - below;
}

}  // namespace

BucketCounts::BucketCounts() : counts_(2 * limit_index().size() + 2) {
  values_.min = std::numeric_limits<double>::infinity();
  values_.max = -values_.min;
}

void BucketCounts::add(std::span<const double> values) {
  const LimitIndex& index = limit_index();
  // Sums of parts are closer to the sum than one long chain of additions.
  double sum = 0;
  double sum_squares = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) {
      ++nonfinite_;
      continue;
    }
    ++values_.count;
    values_.min = std::min(values_.min, value);
    values_.max = std::max(values_.max, value);
    sum += value;
    sum_squares += value * value;
    ++counts_[bucket_of(value, index)];
  }
  values_.sum += sum;
  values_.sum_squares += sum_squares;
}

/// The right end of a bucket.
double BucketCounts::limit_of(std::size_t bucket) const {
  const LimitIndex& index = limit_index();
  const std::size_t size = index.size();
  if (bucket < size) return -index[size - 1 - bucket];
  if (bucket == size) return 0;
  return bucket <= 2 * size ? index[bucket - size - 1] : values_.max;
}

HistogramValues BucketCounts::result() const {
  HistogramValues result = values_;
  const auto is_taken = [](std::uint64_t count) { return count > 0; };
  const auto first = std::find_if(counts_.begin(), counts_.end(), is_taken);
  const auto first_bucket = static_cast<std::size_t>(first - counts_.begin());
  // Readers know the right end of each bucket alone: this one has the left end of the first.
  result.limits.push_back(first_bucket == 0 ? values_.min : limit_of(first_bucket - 1));
  result.counts.push_back(0);
  std::int64_t left = values_.count;
  for (std::size_t bucket = first_bucket; left > 0; ++bucket) {
    const double limit = limit_of(bucket);
    if (counts_[bucket] == 0 && result.counts.back() == 0) {
      result.limits.back() = limit;
      continue;
    }
    result.limits.push_back(limit);
    result.counts.push_back(static_cast<double>(counts_[bucket]));
    left -= static_cast<std::int64_t>(counts_[bucket]);
  }
  return result;
}

BucketCounts count_buckets(const at::Tensor& tensor) {
  const at::NoGradGuard no_gradients;
  const at::Tensor flat = tensor.detach().cpu().reshape({-1});
  BucketCounts counts;
  for (std::int64_t begin = 0; begin < flat.numel(); begin += kChunk) {
    const auto chunk =
        flat.narrow(0, begin, std::min(kChunk, flat.numel() - begin)).to(at::kDouble).contiguous();
    counts.add({chunk.const_data_ptr<double>(), static_cast<std::size_t>(chunk.numel())});
  }
  return counts;
}

}  // namespace lockstep::training
