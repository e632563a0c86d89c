// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_queue.h"

#include <lockstep/core/error.h>

#include <algorithm>
#include <utility>

#include "parallel/buckets/flat_bucket.h"

namespace lockstep {

BucketQueue::BucketQueue(ProcessGroup& group, BucketAssignments& assignments,
                         const std::vector<at::Tensor>& parameters)
    : group_(group), assignments_(assignments), parameters_(parameters) {}

void BucketQueue::vacate() {
  for (const auto& bucket : buckets_) bucket->vacate();
}

void BucketQueue::vacate_if_possible() noexcept {
  for (const auto& bucket : buckets_) {
    try {
      bucket->vacate();
    } catch (...) {  // what could not be moved keeps the group's memory
    }
  }
}

void BucketQueue::launch_complete() {
  while (launched_ < buckets_.size() && buckets_[launched_]->is_complete()) {
    if (launched_ == 0) first_launch_ = Clock::now();
    try {
      launch(*buckets_[launched_]);
    } catch (MismatchError& error) {
      assignments_.explain(error);
      throw;
    }
    ++launched_;
  }
}

void BucketQueue::launch(GradientBucket& bucket) {
  if (!hook_) return bucket.launch(group_);
  auto& flat = dynamic_cast<FlatBucket&>(bucket);
  std::vector<at::Tensor> tensors;
  for (const std::size_t index : bucket.parameters()) tensors.push_back(parameters_[index]);
  flat.launch(group_, hook_,
              GradientBucketView(launched_, launched_ + 1 == buckets_.size(),
                                 assignments_.current().number(), flat.flat(), flat.parts(),
                                 std::move(tensors)));
}

void BucketQueue::note_reduced() {
  BucketAssignment& assignment = assignments_.current();
  for (; reduced_ < launched_ && buckets_[reduced_]->is_reduced(); ++reduced_) {
    GradientBucket& bucket = *buckets_[reduced_];
    const auto now = Clock::now();
    bucket.note_reduced(now);
    if (assignment.is_measuring()) {
      assignment.note_reduced(bucket.bytes(), std::max(bucket.launched_at(), last_reduced_), now);
    }
    last_reduced_ = now;
  }
}

void BucketQueue::wait() {
  for (const auto& bucket : buckets_) {
    bucket->wait();
    note_reduced();
  }
}

void BucketQueue::multiply(double factor) {
  for (const auto& bucket : buckets_) bucket->multiply(factor);
}

void BucketQueue::wait_for_launched() {
  for (const auto& bucket : buckets_) {
    if (bucket->is_launched()) bucket->wait();
  }
}

bool BucketQueue::finish_in_flight() noexcept {
  bool has_succeeded = true;
  for (const auto& bucket : buckets_) {
    try {
      if (bucket->is_launched()) bucket->wait();
    } catch (...) {  // the first error is on its way
      has_succeeded = false;
    }
  }
  return has_succeeded;
}

void BucketQueue::reset() noexcept {
  for (const auto& bucket : buckets_) bucket->reset();
  launched_ = reduced_ = 0;
}

std::vector<std::size_t> BucketQueue::bytes() const {
  std::vector<std::size_t> bytes;
  for (const auto& bucket : buckets_) bytes.push_back(bucket->bytes());
  return bytes;
}

std::size_t BucketQueue::copied_bytes() const {
  std::size_t bytes = 0;
  for (const auto& bucket : buckets_) bytes += bucket->copied_bytes();
  return bytes;
}

}  // namespace lockstep
