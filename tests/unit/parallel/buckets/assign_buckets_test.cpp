// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/assign_buckets.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lockstep {
namespace {

using Indices = std::vector<std::size_t>;

std::vector<BucketSpec> assign_in_reverse(const std::vector<GradientShape>& shapes,
                                          std::size_t first_cap, std::size_t cap) {
  return assign_buckets(shapes, reverse_order(shapes.size()), {first_cap, cap});
}

TEST(AssignBuckets, FillsInReverseOrderOfRegistrationWithASmallFirstBucket) {
  // 4 bytes an element: 400, 400, 400, 40, 40 bytes.
  const auto buckets = assign_in_reverse({{100}, {100}, {100}, {10}, {10}}, 100, 800);
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[0].parameters, (Indices{4, 3}));
  EXPECT_EQ(buckets[1].parameters, (Indices{2, 1}));
  EXPECT_EQ(buckets[2].parameters, (Indices{0}));
}

TEST(AssignBuckets, GivesALargeParameterABucketOfItsOwn) {
  const auto buckets = assign_in_reverse({{10}, {1000}, {10}}, 100, 100);
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[1].parameters, (Indices{1}));
}

TEST(AssignBuckets, KeepsDtypesApartAndOrdersByTheLastParameter) {
  const auto buckets = assign_in_reverse(
      {{10, at::kFloat}, {10, at::kDouble}, {10, at::kFloat}, {10, at::kDouble}}, 1000, 1000);
  ASSERT_EQ(buckets.size(), 2U);
  EXPECT_EQ(buckets[0].dtype, at::kDouble);
  EXPECT_EQ(buckets[0].parameters, (Indices{3, 1}));
  EXPECT_EQ(buckets[1].dtype, at::kFloat);
  EXPECT_EQ(buckets[1].parameters, (Indices{2, 0}));
}

TEST(AssignBuckets, HoldsEveryParameterExactlyOnce) {
  std::vector<GradientShape> shapes;
  for (std::size_t i = 0; i < 100; ++i) shapes.push_back({(i * 37) % 91 + 1});
  Indices seen;
  for (const auto& bucket : assign_in_reverse(shapes, 64, 512)) {
    for (const auto index : bucket.parameters) seen.push_back(index);
  }
  std::sort(seen.begin(), seen.end());
  ASSERT_EQ(seen.size(), 100U);
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(seen[i], i);
}

TEST(AssignBuckets, FollowsTheOrderInWhichGradientsCome) {
  const auto buckets = assign_buckets({{10}, {10}, {10}, {10}}, {2, 0, 3, 1}, {80});
  ASSERT_EQ(buckets.size(), 2U);
  EXPECT_EQ(buckets[0].parameters, (Indices{2, 0}));
  EXPECT_EQ(buckets[1].parameters, (Indices{3, 1}));
}

TEST(AssignBuckets, HasACapForEachBucketAndTheLastOneForTheRest) {
  const auto buckets =
      assign_buckets({{10}, {10}, {10}, {10}, {10}, {10}}, reverse_order(6), {40, 120, 80});
  ASSERT_EQ(buckets.size(), 3U);
  EXPECT_EQ(buckets[0].parameters, (Indices{5}));
  EXPECT_EQ(buckets[1].parameters, (Indices{4, 3, 2}));
  EXPECT_EQ(buckets[2].parameters, (Indices{1, 0}));
}

TEST(AssignBuckets, KeepsDevicesApart) {
  const c10::Device gpu(c10::kCUDA, 0);
  const auto buckets =
      assign_in_reverse({{10, at::kFloat, gpu}, {10}, {10, at::kFloat, gpu}}, 1000, 1000);
  ASSERT_EQ(buckets.size(), 2U);
  EXPECT_EQ(buckets[0].device, c10::kCPU);
  EXPECT_EQ(buckets[1].device, gpu);
  EXPECT_EQ(buckets[1].parameters, (Indices{2, 0}));
}

TEST(AssignBuckets, EndsBucketsWhereItIsTold) {
  const auto buckets =
      assign_buckets_at({{10}, {10}, {10}, {10}}, {3, 1, 2, 0}, {true, false, false, true});
  ASSERT_EQ(buckets.size(), 2U);
  EXPECT_EQ(buckets[0].parameters, (Indices{3}));
  EXPECT_EQ(buckets[1].parameters, (Indices{1, 2, 0}));
}

TEST(AssignBuckets, OfNothingIsNothing) {
  EXPECT_TRUE(assign_in_reverse({}, 1, 1).empty());
}

}  // namespace
}  // namespace lockstep
