// SPDX-License-Identifier: BSD-3-Clause
// The queue of buckets with ranks as threads that fill their buckets in different orders.
#include "parallel/buckets/bucket_queue.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>

#include "parallel/buckets/gradient_storage.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

/// Parameters of `kElements` elements, each in a bucket of its own.
class QueueOfBuckets {
 public:
  static constexpr std::size_t kBuckets = 4;
  static constexpr std::int64_t kElements = 256;

  QueueOfBuckets(ProcessGroup& group, bool is_in_place)
      : options_(DistributedDataParallelOptions().bucket_caps_bytes({1}).gradients_in_group_memory(
            is_in_place)),
        storage_(group, make_parameters(), options_),
        assignments_({"a", "b", "c", "d"}, storage_.shapes(), options_,
                     std::vector<bool>(kBuckets, true), storage_.has_arena()),
        queue_(group, assignments_, storage_.parameters()) {
    queue_.set_buckets(
        storage_.make_buckets(assignments_.current().buckets(), assignments_.bucket_names()));
  }

  [[nodiscard]] BucketQueue& queue() { return queue_; }
  /// Fills a bucket with a gradient of this value.
  void fill(std::size_t bucket, double value) {
    const torch::Tensor& parameter = parameter_of(bucket);
    parameter.mutable_grad() = torch::full({kElements}, value);
    queue_.at(bucket).put(0, parameter, 1);
    EXPECT_FALSE(parameter.grad().defined());
  }
  [[nodiscard]] torch::Tensor average(std::size_t bucket) {
    return queue_.at(bucket).average(0, parameter_of(bucket));
  }
  [[nodiscard]] std::size_t launched() {
    std::size_t count = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      if (queue_.at(i).is_launched()) ++count;
    }
    return count;
  }

 private:
  static std::vector<torch::Tensor> make_parameters() {
    std::vector<torch::Tensor> parameters;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      parameters.push_back(torch::zeros({kElements}, torch::requires_grad()));
    }
    return parameters;
  }
  const torch::Tensor& parameter_of(std::size_t bucket) {
    return storage_.parameters()[queue_.at(bucket).parameters().front()];
  }

  const torch::NoGradGuard no_grad_;
  DistributedDataParallelOptions options_;
  GradientStorage storage_;
  BucketAssignments assignments_;
  BucketQueue queue_;
};

class BucketQueues : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(InPlace, BucketQueues, ::testing::Bool());

TEST_P(BucketQueues, LaunchInTheirOrderWhateverOrderRanksFillThemIn) {
  run_ranks_or_throw(3, [](const std::shared_ptr<ProcessGroup>& group) {
    QueueOfBuckets buckets(*group, GetParam());
    std::vector<std::size_t> order(QueueOfBuckets::kBuckets);
    std::iota(order.begin(), order.end(), std::size_t{0});
    // Rank 0 fills them in order, the others begin elsewhere or backwards.
    if (group->rank() == 1) std::reverse(order.begin(), order.end());
    if (group->rank() == 2) std::rotate(order.begin(), order.begin() + 2, order.end());
    std::vector<bool> is_filled(QueueOfBuckets::kBuckets, false);
    for (const std::size_t bucket : order) {
      buckets.fill(bucket, static_cast<double>(bucket) + group->rank());
      is_filled[bucket] = true;
      buckets.queue().launch_complete();
      const auto missing = std::find(is_filled.begin(), is_filled.end(), false);
      EXPECT_EQ(buckets.launched(), static_cast<std::size_t>(missing - is_filled.begin()));
    }
    buckets.queue().wait();
    for (std::size_t bucket = 0; bucket < QueueOfBuckets::kBuckets; ++bucket) {
      const auto expected =
          torch::full({QueueOfBuckets::kElements}, static_cast<double>(bucket) + 1);
      EXPECT_TRUE(torch::equal(buckets.average(bucket), expected)) << bucket;
    }
    group->close();
  });
}

TEST_P(BucketQueues, WaitForWhatWasLaunchedAndForgetTheRest) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    QueueOfBuckets buckets(*group, GetParam());
    buckets.fill(0, 1);
    buckets.fill(2, 1);
    buckets.queue().launch_complete();
    EXPECT_EQ(buckets.launched(), 1U);
    EXPECT_TRUE(buckets.queue().finish_in_flight());
    EXPECT_TRUE(buckets.queue().at(0).is_reduced());
    buckets.queue().reset();
    for (std::size_t bucket = 0; bucket < QueueOfBuckets::kBuckets; ++bucket) {
      EXPECT_FALSE(buckets.queue().at(bucket).is_complete()) << bucket;
      EXPECT_FALSE(buckets.queue().at(bucket).is_launched()) << bucket;
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
