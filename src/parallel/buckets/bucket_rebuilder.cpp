// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_rebuilder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace lockstep {
namespace {

// The first iterations pay for memory and caches that later ones find ready.
constexpr std::size_t kWarmUp = 2;

/// The iteration after which boundaries are tuned; at least one is measured before.
std::size_t tuning_iteration(std::size_t tune_after) {
  return tune_after == 0 ? 0 : std::max(tune_after, kWarmUp + 1);
}

std::vector<double> sum_over_ranks(ProcessGroup& group, const std::vector<double>& values) {
  const auto tensor = at::tensor(values, at::kDouble);
  group.all_reduce(tensor).wait();
  return {tensor.const_data_ptr<double>(), tensor.const_data_ptr<double>() + tensor.numel()};
}

std::string tuning_text(double before, double after) {
  char text[128];
  std::snprintf(
      text, sizeof(text),
      "tuned: by the measured times the last bucket is reduced after %.2f ms, before %.2f",
      1000 * after, 1000 * before);
  return text;
}

}  // namespace

BucketRebuilder::BucketRebuilder(std::vector<GradientShape> shapes, Settings settings)
    : shapes_(std::move(shapes)),
      settings_(std::move(settings)),
      order_(reverse_order(shapes_.size())),
      ready_(shapes_.size(), 0),
      ready_iterations_(shapes_.size(), 0) {}

BucketRebuilder::Proposal BucketRebuilder::first() const {
  return {assign_buckets(shapes_, order_, settings_.caps), "reverse order of registration"};
}

void BucketRebuilder::begin_iteration() {
  begin_ = Clock::now();
  arrivals_.clear();
  is_measuring_ = iterations_ >= kWarmUp && iterations_ < tuning_iteration(settings_.tune_after);
}

void BucketRebuilder::note_ready(std::size_t parameter) {
  if (iterations_ == 0) {
    std::erase(arrivals_, parameter);  // the last of several gradients counts
    arrivals_.push_back(parameter);
  }
  if (!is_measuring_) return;
  ready_[parameter] += std::chrono::duration<double>(Clock::now() - begin_).count();
  ready_iterations_[parameter] += 1;
}

void BucketRebuilder::note_reduced(std::size_t bytes, Clock::time_point begin,
                                   Clock::time_point end) {
  costs_.add(static_cast<double>(bytes), std::chrono::duration<double>(end - begin).count());
}

std::optional<BucketRebuilder::Proposal> BucketRebuilder::end_iteration(ProcessGroup& group,
                                                                        int leader) {
  ++iterations_;
  if (iterations_ == 1 && settings_.learns_order) {
    auto order = agree_on_order(group, leader);
    if (order == order_) return std::nullopt;
    order_ = std::move(order);
    return Proposal{assign_buckets(shapes_, order_, settings_.caps),
                    "order of the first backward's gradients"};
  }
  if (iterations_ == tuning_iteration(settings_.tune_after)) {
    return tune(group);
  }
  return std::nullopt;
}

std::vector<std::size_t> BucketRebuilder::agree_on_order(ProcessGroup& group, int leader) const {
  std::vector<std::size_t> order = arrivals_;
  // What did not come is complete at the end only.
  for (const std::size_t index : reverse_order(shapes_.size())) {
    if (std::find(order.begin(), order.end(), index) == order.end()) order.push_back(index);
  }
  const auto tensor = at::empty({static_cast<std::int64_t>(order.size())}, at::kLong);
  auto* words = tensor.data_ptr<std::int64_t>();
  std::copy(order.begin(), order.end(), words);
  const auto scope = group.with(CallOptions().name("order of gradients"));
  group.broadcast(tensor, leader).wait();
  std::copy(words, words + order.size(), order.begin());
  return order;
}

BucketRebuilder::Proposal BucketRebuilder::tune(ProcessGroup& group) {
  const auto scope = group.with(CallOptions().name("times of gradients"));
  const auto ready = sum_over_ranks(group, ready_);
  const auto iterations = sum_over_ranks(group, ready_iterations_);
  const auto costs = sum_over_ranks(group, {costs_.count, costs_.bytes, costs_.seconds,
                                            costs_.bytes_bytes, costs_.bytes_seconds});
  StepTimes times;
  for (const std::size_t index : order_) {
    times.ready.push_back(iterations[index] > 0 ? ready[index] / iterations[index] : 0);
    times.bytes.push_back(shapes_[index].bytes());
  }
  // What never came is taken at the end.
  const double last = *std::max_element(times.ready.begin(), times.ready.end());
  for (std::size_t i = 0; i < order_.size(); ++i) {
    if (iterations[order_[i]] == 0) times.ready[i] = last;
  }
  fit_costs({costs[0], costs[1], costs[2], costs[3], costs[4]}, times);
  const auto current = assign_buckets(shapes_, order_, settings_.caps);
  std::vector<bool> current_ends(order_.size(), false);
  for (std::size_t i = 0; i < order_.size(); ++i) {
    current_ends[i] = std::any_of(current.begin(), current.end(), [&](const BucketSpec& bucket) {
      return bucket.parameters.back() == order_[i];
    });
  }
  const auto ends =
      tune_boundaries(times, *std::max_element(settings_.caps.begin(), settings_.caps.end()));
  return {assign_buckets_at(shapes_, order_, ends),
          tuning_text(end_of_reduction(times, current_ends), end_of_reduction(times, ends))};
}

}  // namespace lockstep
