// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/bucket_planner.h"

#include <algorithm>
#include <map>
#include <utility>

namespace lockstep {

std::vector<BucketPlan> plan_buckets(const std::vector<GradientShape>& parameters,
                                     std::size_t first_cap_bytes, std::size_t cap_bytes) {
  struct Open {
    BucketPlan plan;
    std::size_t bytes = 0;
  };
  std::map<at::ScalarType, Open> open;  // buckets still being filled, one a dtype
  std::vector<BucketPlan> buckets;
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const GradientShape& shape = parameters[i];
    const std::size_t bytes = shape.elements * c10::elementSize(shape.dtype);
    Open& bucket = open[shape.dtype];
    const std::size_t cap = buckets.empty() ? std::min(first_cap_bytes, cap_bytes) : cap_bytes;
    if (!bucket.plan.parameters.empty() && bucket.bytes + bytes > cap) {
      buckets.push_back(std::exchange(bucket, Open{}).plan);
    }
    bucket.plan.dtype = shape.dtype;
    bucket.plan.parameters.push_back(i);
    bucket.bytes += bytes;
  }
  for (auto& [dtype, bucket] : open) {
    if (!bucket.plan.parameters.empty()) buckets.push_back(std::move(bucket.plan));
  }
  // A bucket is complete when its last parameter, the one registered first, is.
  std::stable_sort(buckets.begin(), buckets.end(), [](const BucketPlan& a, const BucketPlan& b) {
    return a.parameters.back() > b.parameters.back();
  });
  return buckets;
}

}  // namespace lockstep
