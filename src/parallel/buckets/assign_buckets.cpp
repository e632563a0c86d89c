// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/assign_buckets.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace lockstep {
namespace {

/// Buckets that are being filled, one a dtype and device, and those that are full.
class Filling {
 public:
  explicit Filling(const std::vector<GradientShape>& parameters) : shapes_(parameters) {}

  [[nodiscard]] std::size_t full() const noexcept { return full_.size(); }
  /// Bytes in the bucket that this parameter would join; 0: it would begin one.
  [[nodiscard]] std::size_t bytes_beside(std::size_t index) { return open_for(index).bytes; }

  void add(std::size_t index) {
    Open& bucket = open_for(index);
    bucket.spec.parameters.push_back(index);
    bucket.bytes += std::max<std::size_t>(1, shapes_[index].bytes());
  }
  /// Ends the bucket that this parameter is in or would join.
  void end(std::size_t index) {
    Open& bucket = open_for(index);
    const BucketSpec empty{{}, bucket.spec.dtype, bucket.spec.device};
    if (bucket.bytes > 0) full_.push_back(std::exchange(bucket.spec, empty));
    bucket.bytes = 0;
  }

  /// All buckets, in the order in which they get complete: when the last parameter does.
  [[nodiscard]] std::vector<BucketSpec> finish(const std::vector<std::size_t>& order) {
    for (Open& bucket : open_) {
      if (bucket.bytes > 0) full_.push_back(std::move(bucket.spec));
    }
    std::vector<std::size_t> position(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) position[order[i]] = i;
    std::stable_sort(full_.begin(), full_.end(), [&](const BucketSpec& a, const BucketSpec& b) {
      return position[a.parameters.back()] < position[b.parameters.back()];
    });
    return std::move(full_);
  }

 private:
  struct Open {
    BucketSpec spec;
    std::size_t bytes = 0;
  };

  Open& open_for(std::size_t index) {
    const GradientShape& shape = shapes_[index];
    for (Open& bucket : open_) {
      if (bucket.spec.dtype == shape.dtype && bucket.spec.device == shape.device) return bucket;
    }
    return open_.emplace_back(Open{{{}, shape.dtype, shape.device}, 0});
  }

  const std::vector<GradientShape>& shapes_;
  std::vector<Open> open_;
  std::vector<BucketSpec> full_;
};

}  // namespace

std::vector<std::size_t> reverse_order(std::size_t parameters) {
  std::vector<std::size_t> order(parameters);
  std::iota(order.rbegin(), order.rend(), std::size_t{0});
  return order;
}

std::vector<BucketSpec> assign_buckets(const std::vector<GradientShape>& parameters,
                                       const std::vector<std::size_t>& order,
                                       const std::vector<std::size_t>& caps) {
  Filling filling(parameters);
  for (const std::size_t index : order) {
    const std::size_t cap = caps[std::min(filling.full(), caps.size() - 1)];
    const std::size_t beside = filling.bytes_beside(index);
    if (beside > 0 && beside + parameters[index].bytes() > cap) filling.end(index);
    filling.add(index);
  }
  return filling.finish(order);
}

std::vector<BucketSpec> assign_buckets_at(const std::vector<GradientShape>& parameters,
                                          const std::vector<std::size_t>& order,
                                          const std::vector<bool>& is_end) {
  Filling filling(parameters);
  for (std::size_t i = 0; i < order.size(); ++i) {
    filling.add(order[i]);
    if (is_end[i]) filling.end(order[i]);
  }
  return filling.finish(order);
}

}  // namespace lockstep
