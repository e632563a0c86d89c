// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/stratified_sampler.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <queue>
#include <utility>

#include "data/samplers/mix.h"

namespace lockstep::data {
namespace detail {

struct Strata {
  std::vector<std::int64_t> samples;    // those of the first class, then of the second, ...
  std::vector<std::uint64_t> starts;    // where each class begins in `samples`, and the end
  std::vector<std::uint64_t> schedule;  // Proportional: place in `samples`, before shuffling
  std::vector<std::size_t> by_size;     // Proportional: the classes, the smallest first

  [[nodiscard]] std::size_t classes() const { return starts.size() - 1; }
  [[nodiscard]] std::uint64_t size_of(std::size_t c) const { return starts[c + 1] - starts[c]; }
};

}  // namespace detail

namespace {

constexpr const char* kStratified = "StratifiedSampler";
// Part of the fingerprint: another way to turn the schedule makes other orders.
constexpr std::uint64_t kScheduleVersion = 2;

detail::Strata group_by_label(const std::vector<std::int64_t>& labels) {
  std::map<std::int64_t, std::uint64_t> counts;
  for (const auto label : labels) ++counts[label];
  detail::Strata strata;
  std::map<std::int64_t, std::uint64_t> next;
  std::uint64_t start = 0;
  for (const auto& [label, count] : counts) {
    strata.starts.push_back(start);
    next[label] = start;
    start += count;
  }
  strata.starts.push_back(start);
  strata.samples.resize(labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    strata.samples[static_cast<std::size_t>(next[labels[i]]++)] = static_cast<std::int64_t>(i);
  }
  return strata;
}

// Number j of a class of n among N comes at a time from floor(j N / n) to ceil((j + 1) N / n) - 1:
// just those times keep the class within less than one sample of its due. One for each time, the
// most urgent of those that may come: that this finds a place for all is the theorem.
std::vector<std::uint64_t> level_schedule(const detail::Strata& strata) {
  const std::uint64_t all = strata.samples.size();
  struct Waiting {
    std::uint64_t time;
    std::size_t number;  // of the class
    bool operator>(const Waiting& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };
  using Earliest = std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>>;
  Earliest later;
  Earliest allowed;  // by the last time at which they may come
  std::vector<std::uint64_t> done(strata.classes(), 0);
  for (std::size_t c = 0; c < strata.classes(); ++c) later.push({0, c});
  std::vector<std::uint64_t> schedule(strata.samples.size());
  for (std::uint64_t time = 0; time < all; ++time) {
    while (!later.empty() && later.top().time <= time) {
      const auto c = later.top().number;
      later.pop();
      const auto size = strata.size_of(c);
      allowed.push({((done[c] + 1) * all + size - 1) / size - 1, c});
    }
    const auto c = allowed.top().number;
    allowed.pop();
    schedule[static_cast<std::size_t>(time)] = strata.starts[c] + done[c]++;
    if (done[c] < strata.size_of(c)) later.push({done[c] * all / strata.size_of(c), c});
  }
  return schedule;
}

std::vector<std::size_t> classes_by_size(const detail::Strata& strata) {
  std::vector<std::size_t> classes(strata.classes());
  std::iota(classes.begin(), classes.end(), std::size_t{0});
  std::stable_sort(classes.begin(), classes.end(), [&](std::size_t a, std::size_t b) {
    return strata.size_of(a) < strata.size_of(b);
  });
  return classes;
}

std::uint64_t order_size(std::size_t labels, const StratifiedSamplerOptions& options) {
  TORCH_CHECK(options.window() > 0, kStratified, ": window is 0; it must be at least 1");
  TORCH_CHECK(labels <= std::numeric_limits<std::uint32_t>::max(), kStratified, ": ", labels,
              " labels are given; at most ", std::numeric_limits<std::uint32_t>::max(),
              " are possible");
  // Leaves room for the streams of all windows and of all times through a class.
  constexpr auto kMostDraws = std::uint64_t{1} << 60;
  TORCH_CHECK(options.num_samples() <= kMostDraws, kStratified, ": num_samples is ",
              options.num_samples(), "; it must be at most ", kMostDraws);
  TORCH_CHECK(options.balance() == ClassBalance::Balanced || options.num_samples() == 0,
              kStratified, ": num_samples is ", options.num_samples(),
              "; with Proportional it must be 0, as each sample comes once");
  return options.num_samples() == 0 ? labels : options.num_samples();
}

}  // namespace

StratifiedSampler::StratifiedSampler(const std::vector<std::int64_t>& labels, int world_size,
                                     int rank, const StratifiedSamplerOptions& options)
    : EpochSampler({kStratified, labels.size(), data::order_size(labels.size(), options),
                    world_size, rank, options.seed(), options.remainder()}),
      window_(std::min(options.window(), EpochSampler::order_size())) {
  auto strata = group_by_label(labels);
  if (options.balance() == ClassBalance::Proportional) {
    strata.schedule = level_schedule(strata);
    strata.by_size = classes_by_size(strata);
  }
  strata_ = std::make_shared<const detail::Strata>(std::move(strata));
  OrderFingerprint fingerprint("stratified");
  fingerprint.add(static_cast<std::uint64_t>(options.balance()))
      .add(window_)
      .add(EpochSampler::order_size());
  if (options.balance() == ClassBalance::Proportional) fingerprint.add(kScheduleVersion);
  for (const auto label : labels) fingerprint.add(static_cast<std::uint64_t>(label));
  set_fingerprint(fingerprint.value());
  StratifiedSampler::epoch_changed();
}

void StratifiedSampler::epoch_changed() {
  orders_.clear();
  for (std::size_t c = 0; c < strata_->classes(); ++c) {
    orders_.emplace_back(strata_->size_of(c), seed(), epoch(), c);
  }
  if (!strata_->schedule.empty()) vary_schedule();
}

// The schedule is one for all epochs, and what it has at its end is what a loader that drops the
// last batch never gives. So each epoch begins elsewhere in it, and classes of one size trade
// places. Steps of what divides window and order leave windows whole where they were.
void StratifiedSampler::vary_schedule() {
  const auto size = EpochSampler::order_size();
  const auto step = std::gcd(window_, size);
  auto stream = strata_->classes() + size / window_ + 1;  // behind those of the windows
  const auto draw = [&](std::uint64_t count) {
    return detail::KeyedPermutation(count, seed(), epoch(), stream++);
  };
  turn_ = step * draw(size / step)(0);

  const auto& by_size = strata_->by_size;
  stand_ins_.resize(by_size.size());
  for (std::size_t first = 0, end = 0; first < by_size.size(); first = end) {
    while (end < by_size.size() &&
           strata_->size_of(by_size[end]) == strata_->size_of(by_size[first])) {
      ++end;
    }
    const auto traded = draw(end - first);
    for (std::size_t i = first; i < end; ++i) {
      stand_ins_[by_size[i]] = by_size[first + static_cast<std::size_t>(traded(i - first))];
    }
  }
}

std::int64_t StratifiedSampler::at(std::uint64_t position) const {
  // Streams: classes have 0, 1, ...; windows come behind them; behind those, further times through
  // a class, or what varies the schedule.
  const std::uint64_t classes = strata_->classes();
  const auto window = position / window_;
  const auto begin = window * window_;
  const auto length = std::min(window_, EpochSampler::order_size() - begin);
  const detail::KeyedPermutation mixed(length, seed(), epoch(), classes + window);
  const auto time = begin + mixed(position - begin);

  std::size_t c = 0;
  std::uint64_t number = 0;  // within the class
  if (strata_->schedule.empty()) {
    c = static_cast<std::size_t>(time % classes);
    number = time / classes;
  } else {
    const auto turned = (time + turn_) % EpochSampler::order_size();
    const auto place = strata_->schedule[static_cast<std::size_t>(turned)];
    const auto behind = std::upper_bound(strata_->starts.begin(), strata_->starts.end(), place);
    c = static_cast<std::size_t>(behind - strata_->starts.begin()) - 1;
    number = place - strata_->starts[c];
    c = stand_ins_[c];
  }
  const auto size = strata_->size_of(c);
  auto chosen = number % size;
  if (number < size) {
    chosen = orders_[c](chosen);
  } else {
    const auto windows = EpochSampler::order_size() / window_ + 1;
    const auto stream = classes + windows + number / size * classes + c;
    chosen = detail::KeyedPermutation(size, seed(), epoch(), stream)(chosen);
  }
  return strata_->samples[static_cast<std::size_t>(strata_->starts[c] + chosen)];
}

}  // namespace lockstep::data
