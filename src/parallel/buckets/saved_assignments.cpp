// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/saved_assignments.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

/// The parameters of all buckets, in ascending order.
std::vector<std::size_t> sorted_members(const SavedBuckets& saved) {
  std::vector<std::size_t> members;
  for (const auto& bucket : saved.buckets) {
    members.insert(members.end(), bucket.begin(), bucket.end());
  }
  std::sort(members.begin(), members.end());
  return members;
}

std::string problem_of_set(const SavedAssignment& set, std::size_t parameters) {
  const auto members = sorted_members(set.current);
  const auto has_empty_bucket = [](const SavedBuckets& saved) {
    return std::any_of(saved.buckets.begin(), saved.buckets.end(),
                       [](const auto& bucket) { return bucket.empty(); });
  };
  if (members.empty() || has_empty_bucket(set.current)) return "a bucket has no parameters";
  if (members.back() >= parameters) return "a bucket has a parameter that there is not";
  if (std::adjacent_find(members.begin(), members.end()) != members.end()) {
    return "a parameter is in two buckets";
  }
  auto order = set.order;
  std::sort(order.begin(), order.end());
  if (order != members) return "the order of gradients is not that of the parameters in buckets";
  if (set.proposal && (sorted_members(*set.proposal) != members || has_empty_bucket(*set.proposal)))
    return "the next buckets have other parameters";
  const bool has_caps =
      !set.caps.empty() && std::find(set.caps.begin(), set.caps.end(), 0) == set.caps.end();
  return has_caps ? "" : "a cap of buckets is missing";
}

}  // namespace

SavedAssignments renumbered(SavedAssignments saved, const std::vector<std::size_t>& index_of) {
  const auto renumber = [&](std::vector<std::size_t>& list) {
    for (std::size_t& parameter : list) parameter = index_of[parameter];
  };
  for (SavedAssignment& set : saved.sets) {
    for (auto& bucket : set.current.buckets) renumber(bucket);
    if (set.proposal) {
      for (auto& bucket : set.proposal->buckets) renumber(bucket);
    }
    renumber(set.order);
  }
  return saved;
}

std::string problem_of(const SavedAssignments& saved, std::size_t parameters) {
  std::vector<std::vector<std::size_t>> seen;
  for (const SavedAssignment& set : saved.sets) {
    auto problem = problem_of_set(set, parameters);
    if (!problem.empty()) return problem;
    if (set.number > saved.plan) return "a set has a number that was not given yet";
    seen.push_back(sorted_members(set.current));
  }
  std::sort(seen.begin(), seen.end());
  const bool is_twice = std::adjacent_find(seen.begin(), seen.end()) != seen.end();
  return is_twice ? "a set of parameters is there twice" : "";
}

}  // namespace lockstep
