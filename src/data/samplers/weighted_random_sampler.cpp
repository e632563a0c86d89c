// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/sample_random.h>
#include <lockstep/data/samplers/weighted_random_sampler.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

#include "data/samplers/lazy_order.h"
#include "data/samplers/mix.h"

namespace lockstep::data {
namespace detail {

// Columns of equal width; each holds its own number up to a height, and one other number above.
class AliasTable {
 public:
  explicit AliasTable(const std::vector<double>& weights) : columns_(weights.size()) {
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;  // of weights that the largest cannot make overflow
    for (const double weight : weights) sum += weight / largest;
    std::vector<std::size_t> low;
    std::vector<std::size_t> high;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      columns_[i] = {weights[i] / largest / sum * static_cast<double>(weights.size()), i};
      (columns_[i].height < 1 ? low : high).push_back(i);
    }
    while (!low.empty() && !high.empty()) {
      const auto short_one = low.back();
      const auto tall_one = high.back();
      low.pop_back();
      columns_[short_one].other = tall_one;
      columns_[tall_one].height -= 1 - columns_[short_one].height;
      if (columns_[tall_one].height < 1) {
        high.pop_back();
        low.push_back(tall_one);
      }
    }
    // What rounding has left over. A weight of 0 must not be among it.
    const auto heaviest = static_cast<std::size_t>(
        std::max_element(weights.begin(), weights.end()) - weights.begin());
    for (const auto i : low) {
      if (weights[i] > 0) {
        columns_[i].height = 1;
      } else {
        columns_[i].other = heaviest;
      }
    }
    for (const auto i : high) columns_[i].height = 1;
  }

  [[nodiscard]] std::int64_t draw(SampleRandom random) const {
    const auto number =
        static_cast<std::size_t>(random.below(static_cast<std::int64_t>(columns_.size())));
    const auto& column = columns_[number];
    return static_cast<std::int64_t>(random.uniform() < column.height ? number : column.other);
  }

 private:
  struct Column {
    double height = 0;
    std::size_t other = 0;
  };
  std::vector<Column> columns_;
};

}  // namespace detail

namespace {

constexpr const char* kWeighted = "WeightedRandomSampler";

std::size_t count_positive(const std::vector<double>& weights) {
  std::size_t positive = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK(std::isfinite(weights[i]) && weights[i] >= 0, kWeighted, ": weights[", i, "] is ",
                weights[i], "; it must be finite and not negative");
    if (weights[i] > 0) ++positive;
  }
  TORCH_CHECK(positive > 0 || weights.empty(), kWeighted, ": all ", weights.size(),
              " weights are 0; one at least must be greater");
  return positive;
}

std::uint64_t draws(const std::vector<double>& weights,
                    const WeightedRandomSamplerOptions& options) {
  const auto positive = count_positive(weights);
  if (options.replacement()) {
    return options.num_samples() == 0 ? weights.size() : options.num_samples();
  }
  TORCH_CHECK(options.num_samples() <= positive, kWeighted, ": num_samples is ",
              options.num_samples(), " without replacement, but only ", positive,
              " weights are greater than 0");
  return options.num_samples() == 0 ? positive : options.num_samples();
}

// Each sample waits for a time that is exponentially distributed, the shorter on average the
// greater its weight; the first `count` to come are the draws.
std::vector<std::int64_t> without_replacement(const std::vector<double>& weights,
                                              std::uint64_t seed, std::int64_t epoch,
                                              std::uint64_t count) {
  std::vector<std::pair<double, std::int64_t>> arrivals;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    const auto number = static_cast<std::int64_t>(i);
    SampleRandom random(seed, epoch, -1 - number);
    // A logarithm of the time, so that tiny and huge weights do not overflow.
    const double waiting = std::log(-std::log1p(-random.uniform())) - std::log(weights[i]);
    arrivals.emplace_back(waiting, number);
  }
  std::sort(arrivals.begin(), arrivals.end());
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = arrivals[i].second;
  return order;
}

}  // namespace

WeightedRandomSampler::WeightedRandomSampler(std::vector<double> weights, int world_size, int rank,
                                             const WeightedRandomSamplerOptions& options)
    : EpochSampler({kWeighted, weights.size(), draws(weights, options), world_size, rank,
                    options.seed(), options.remainder()}),
      weights_(std::make_shared<const std::vector<double>>(std::move(weights))) {
  OrderFingerprint fingerprint("weighted");
  fingerprint.add(options.replacement() ? 1 : 0).add(order_size());
  for (const double weight : *weights_) fingerprint.add(std::bit_cast<std::uint64_t>(weight));
  set_fingerprint(fingerprint.value());
  if (options.replacement()) table_ = std::make_shared<const detail::AliasTable>(*weights_);
  WeightedRandomSampler::epoch_changed();
}

void WeightedRandomSampler::epoch_changed() {
  if (table_ != nullptr) return;
  order_ = std::make_shared<const detail::LazyOrder>(
      [weights = weights_, seed = seed(), epoch = epoch(), count = order_size()] {
        return without_replacement(*weights, seed, epoch, count);
      });
}

std::int64_t WeightedRandomSampler::at(std::uint64_t position) const {
  if (table_ == nullptr) return order_->at(position);
  return table_->draw(SampleRandom(seed(), epoch(), -1 - static_cast<std::int64_t>(position)));
}

}  // namespace lockstep::data
