// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_assignment.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

// Of buckets that are reduced where they are: the last one of a backward is waited for, and the
// smaller it is, the shorter.
constexpr std::size_t kInPlaceCap = std::size_t{8} << 20;

// A program that freezes at random makes ever new ones.
constexpr std::size_t kMostSets = 16;

// Of parameters that an error speaks of.
constexpr std::size_t kMostNames = 3;

PlanLearner::Settings settings_of(const DistributedDataParallelOptions& options, bool is_in_place) {
  PlanLearner::Settings settings;
  settings.caps = options.bucket_caps_bytes();
  if (settings.caps.empty()) {
    const std::size_t cap = is_in_place ? std::min(options.bucket_cap_bytes(), kInPlaceCap)
                                        : options.bucket_cap_bytes();
    settings.caps = {std::min(options.first_bucket_cap_bytes(), cap), cap};
  }
  settings.learns_order = options.learn_order();
  settings.tune_after = options.tune_buckets_after();
  return settings;
}

}  // namespace

BucketAssignment::BucketAssignment(std::vector<std::string> names,
                                   std::vector<GradientShape> shapes,
                                   const DistributedDataParallelOptions& options,
                                   std::vector<bool> planned, bool is_in_place)
    : names_(std::move(names)),
      shapes_(std::move(shapes)),
      options_(options),
      planned_(std::move(planned)) {
  find_set(is_in_place);
}

bool BucketAssignment::follow(bool is_in_place) {
  const auto before = set().number();
  is_other_set_ = planned_ != set().members();
  find_set(is_in_place);
  set().take_proposal();
  return set().number() != before;
}

void BucketAssignment::find_set(bool is_in_place) {
  auto found = std::find_if(sets_.begin(), sets_.end(),
                            [&](const PlannedSet& known) { return known.members() == planned_; });
  if (found == sets_.end()) {
    if (sets_.size() == kMostSets) sets_.pop_back();
    found = sets_.emplace(sets_.begin(), shapes_, planned_, settings_of(options_, is_in_place));
  }
  sets_.splice(sets_.begin(), sets_, found);
}

std::string BucketAssignment::call_name(const std::string& what) const {
  if (set().frozen() == 0) return options_.name() + ": " + what;
  // Names are compared whole, also where they are too long to be shown.
  return options_.name() + ", " + std::to_string(set().frozen()) + " frozen: " + what + " of set " +
         std::to_string(set().hash());
}

std::vector<std::string> BucketAssignment::bucket_names() const {
  std::vector<std::string> names;
  const std::size_t buckets = set().plans().size();
  for (std::size_t i = 0; i < buckets; ++i) {
    names.push_back(
        call_name("bucket " + std::to_string(i + 1) + " of " + std::to_string(buckets)));
  }
  return names;
}

void BucketAssignment::explain(MismatchError& error) const {
  if (set().frozen() == 0 || !error.context().empty()) return;
  std::string names;
  std::size_t shown = 0;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    if (set().members()[i]) continue;
    if (shown++ == kMostNames) {
      names += ", ...";
      break;
    }
    names += (names.empty() ? "'" : ", '") + names_[i] + "'";
  }
  error.add_context(options_.name() + ": this rank has frozen " + names +
                    "; all ranks freeze the same parameters before the same forward");
}

}  // namespace lockstep
