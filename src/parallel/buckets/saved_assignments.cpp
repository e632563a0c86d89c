// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/saved_assignments.h"

#include <algorithm>
#include <set>
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
    std::erase(list, kGone);
  };
  const auto renumber_buckets = [&](SavedBuckets& buckets) {
    for (auto& bucket : buckets.buckets) renumber(bucket);
    std::erase_if(buckets.buckets, [](const auto& bucket) { return bucket.empty(); });
  };
  SavedAssignments result{saved.plan, {}};
  std::set<std::vector<std::size_t>> seen;
  for (SavedAssignment& set : saved.sets) {
    renumber_buckets(set.current);
    if (set.proposal) renumber_buckets(*set.proposal);
    renumber(set.order);
    if (set.current.buckets.empty() || !seen.insert(sorted_members(set.current)).second) continue;
    result.sets.push_back(std::move(set));
  }
  return result;
}

std::string problem_of(const SavedAssignments& saved, std::size_t parameters) {
  std::set<std::vector<std::size_t>> seen;
  std::set<std::uint64_t> numbers;
  for (const SavedAssignment& set : saved.sets) {
    auto problem = problem_of_set(set, parameters);
    if (!problem.empty()) return problem;
    if (set.number == 0 || set.number > saved.plan) {
      return "a set has a number that was not given yet";
    }
    if (!seen.insert(sorted_members(set.current)).second) {
      return "a set of parameters is there twice";
    }
    // Buckets are told by it.
    if (!numbers.insert(set.number).second) return "two sets have the same number";
  }
  return "";
}

}  // namespace lockstep
