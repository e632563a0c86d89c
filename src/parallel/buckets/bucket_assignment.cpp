// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_assignment.h"

#include <utility>

#include "comm/collective/fingerprint.h"

namespace lockstep {
namespace {

std::vector<std::size_t> indices_of(const std::vector<bool>& members) {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i]) indices.push_back(i);
  }
  return indices;
}

std::vector<GradientShape> shapes_at(const std::vector<GradientShape>& shapes,
                                     const std::vector<std::size_t>& indices) {
  std::vector<GradientShape> chosen;
  for (const std::size_t index : indices) chosen.push_back(shapes[index]);
  return chosen;
}

std::vector<bool> members_in(const SavedBuckets& saved, std::size_t parameters) {
  std::vector<bool> members(parameters, false);
  for (const auto& bucket : saved.buckets) {
    for (const std::size_t parameter : bucket) members[parameter] = true;
  }
  return members;
}

BucketRebuilder::Settings with_caps(BucketRebuilder::Settings settings,
                                    const std::vector<std::size_t>& caps) {
  settings.caps = caps;
  return settings;
}

}  // namespace

BucketAssignment::BucketAssignment(const std::vector<GradientShape>& shapes,
                                   std::vector<bool> members,
                                   const BucketRebuilder::Settings& settings)
    : members_(std::move(members)),
      indices_(indices_of(members_)),
      place_of_(members_.size(), 0),
      rebuilder_(shapes_at(shapes, indices_), settings) {
  for (std::size_t place = 0; place < indices_.size(); ++place) {
    place_of_[indices_[place]] = place;
    hash_ = mix(hash_, indices_[place]);
  }
  use(rebuilder_.first());
}

BucketAssignment::BucketAssignment(const std::vector<GradientShape>& shapes,
                                   const SavedAssignment& saved, BucketRebuilder::Settings settings)
    : BucketAssignment(shapes, members_in(saved.current, shapes.size()),
                       with_caps(std::move(settings), saved.caps)) {
  std::vector<std::size_t> order;
  for (const std::size_t parameter : saved.order) order.push_back(place_of_[parameter]);
  rebuilder_.go_on(saved.iterations, std::move(order));
  use(proposal_of(shapes, saved.current));
  number_ = saved.number;
  if (saved.proposal) proposal_ = proposal_of(shapes, *saved.proposal);
}

SavedAssignment BucketAssignment::saved() const {
  SavedAssignment saved;
  for (const BucketSpec& bucket : buckets_) saved.current.buckets.push_back(bucket.parameters);
  saved.current.reason = reason_;
  saved.number = number_;
  saved.caps = rebuilder_.caps();
  saved.iterations = rebuilder_.iterations();
  for (const std::size_t place : rebuilder_.order()) saved.order.push_back(indices_[place]);
  if (!proposal_) return saved;
  SavedBuckets& next = saved.proposal.emplace();
  next.reason = proposal_->reason;
  for (const BucketSpec& bucket : proposal_->buckets) {
    auto& parameters = next.buckets.emplace_back();
    for (const std::size_t place : bucket.parameters) parameters.push_back(indices_[place]);
  }
  return saved;
}

BucketRebuilder::Proposal BucketAssignment::proposal_of(const std::vector<GradientShape>& shapes,
                                                        const SavedBuckets& saved) const {
  BucketRebuilder::Proposal proposal{{}, saved.reason};
  for (const auto& parameters : saved.buckets) {
    const GradientShape& shape = shapes[parameters.front()];
    BucketSpec& bucket = proposal.buckets.emplace_back(BucketSpec{{}, shape.dtype, shape.device});
    for (const std::size_t parameter : parameters) {
      bucket.parameters.push_back(place_of_[parameter]);
    }
  }
  return proposal;
}

void BucketAssignment::take_proposal() {
  if (auto proposal = std::exchange(proposal_, std::nullopt)) use(std::move(*proposal));
}

void BucketAssignment::use(BucketRebuilder::Proposal proposal) {
  buckets_ = std::move(proposal.buckets);
  reason_ = std::move(proposal.reason);
  number_ = 0;
  for (BucketSpec& bucket : buckets_) {
    for (std::size_t& parameter : bucket.parameters) parameter = indices_[parameter];
  }
}

}  // namespace lockstep
