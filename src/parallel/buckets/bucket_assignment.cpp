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
