// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/bucket_assignments.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

// The cap of buckets that are reduced in place. Backward waits for its last bucket, and waits less
// the smaller that bucket is.
constexpr std::size_t kInPlaceCap = std::size_t{8} << 20;

// A program that freezes parameters at random makes ever new sets.
constexpr std::size_t kMostSets = 16;

// How many parameters an error names.
constexpr std::size_t kMostNames = 3;

BucketRebuilder::Settings settings_of(const DistributedDataParallelOptions& options,
                                      bool is_in_place) {
  BucketRebuilder::Settings settings;
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

BucketAssignments::BucketAssignments(std::vector<std::string> names,
                                     std::vector<GradientShape> shapes,
                                     const DistributedDataParallelOptions& options,
                                     std::vector<bool> needed, bool is_in_place)
    : names_(std::move(names)),
      shapes_(std::move(shapes)),
      options_(options),
      needed_(std::move(needed)) {
  make_current(is_in_place);
}

bool BucketAssignments::follow(bool is_in_place) {
  make_current(is_in_place);
  current().take_proposal();
  return current().number() == 0 || current().number() != built_;
}

void BucketAssignments::make_current(bool is_in_place) {
  auto found =
      std::find_if(assignments_.begin(), assignments_.end(),
                   [&](const BucketAssignment& known) { return known.members() == needed_; });
  if (found == assignments_.end()) {
    if (assignments_.size() == kMostSets) assignments_.pop_back();
    found = assignments_.emplace(assignments_.begin(), shapes_, needed_,
                                 settings_of(options_, is_in_place));
  }
  assignments_.splice(assignments_.begin(), assignments_, found);
}

void BucketAssignments::end_iteration(ProcessGroup& group, int leader) {
  completed_ = current().members();
  current().end_iteration(group, leader);
}

SavedAssignments BucketAssignments::saved(std::uint64_t plan) const {
  SavedAssignments saved{plan, {}};
  for (const BucketAssignment& assignment : assignments_) {
    // Without a number, its buckets were never made.
    if (assignment.number() != 0) saved.sets.push_back(assignment.saved());
  }
  return saved;
}

void BucketAssignments::restore(const SavedAssignments& saved, bool is_in_place) {
  std::list<BucketAssignment> restored;
  for (const SavedAssignment& set : saved.sets) {
    if (restored.size() == kMostSets) break;
    restored.emplace_back(shapes_, set, settings_of(options_, is_in_place));
  }
  assignments_ = std::move(restored);
  if (assignments_.empty()) make_current(is_in_place);
  built_ = 0;
}

std::string BucketAssignments::call_name(const std::string& what) const {
  if (current().frozen() == 0) return options_.name() + ": " + what;
  // Names are compared whole, also where they are too long to be shown.
  return options_.name() + ", " + std::to_string(current().frozen()) + " frozen: " + what +
         " of set " + std::to_string(current().hash());
}

std::vector<std::string> BucketAssignments::bucket_names() const {
  std::vector<std::string> names;
  const std::size_t buckets = current().buckets().size();
  for (std::size_t i = 0; i < buckets; ++i) {
    names.push_back(
        call_name("bucket " + std::to_string(i + 1) + " of " + std::to_string(buckets)));
  }
  return names;
}

void BucketAssignments::explain(MismatchError& error) const {
  if (current().frozen() == 0 || !error.context().empty()) return;
  std::string names;
  std::size_t shown = 0;
  for (std::size_t i = 0; i < names_.size(); ++i) {
    if (current().members()[i]) continue;
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
