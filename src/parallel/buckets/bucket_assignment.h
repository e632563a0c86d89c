// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/bucket_rebuilder.h"
#include "parallel/buckets/saved_assignments.h"

namespace lockstep {

/// A set of parameters that need gradients at the same time, the buckets to which they are
/// assigned, and what was measured in order to assign them better.
///
/// Parameters outside of the set are frozen, though the reducer has memory for their gradients too.
/// Indices are those of the reducer. Thread-safety: guarded by the reducer's lock.
class BucketAssignment {
 public:
  using Clock = BucketRebuilder::Clock;

  /// `shapes`: of all parameters. `members`: which of them belong to the set.
  BucketAssignment(const std::vector<GradientShape>& shapes, std::vector<bool> members,
                   const BucketRebuilder::Settings& settings);
  /// One that was saved. Its caps take the place of those of `settings`.
  BucketAssignment(const std::vector<GradientShape>& shapes, const SavedAssignment& saved,
                   BucketRebuilder::Settings settings);

  [[nodiscard]] SavedAssignment saved() const;
  [[nodiscard]] const std::vector<bool>& members() const noexcept { return members_; }
  [[nodiscard]] const std::vector<BucketSpec>& buckets() const noexcept { return buckets_; }
  /// Why the parameters are assigned like that, for the statistics.
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  /// The number of this assignment, which the statistics and communication hooks call `plan`; 0
  /// until `set_number`, and again when the members are assigned anew.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
  void set_number(std::uint64_t number) noexcept { number_ = number; }
  /// A number that other sets hardly have.
  [[nodiscard]] std::uint64_t hash() const noexcept { return hash_; }
  [[nodiscard]] std::size_t frozen() const noexcept { return members_.size() - indices_.size(); }

  /// Assigns the members as the last iteration has proposed, if it has.
  void take_proposal();

  // --- as BucketRebuilder ---
  void begin_iteration() { rebuilder_.begin_iteration(); }
  void note_ready(std::size_t parameter) { rebuilder_.note_ready(place_of_[parameter]); }
  void note_reduced(std::size_t bytes, Clock::time_point begin, Clock::time_point end) {
    rebuilder_.note_reduced(bytes, begin, end);
  }
  [[nodiscard]] bool is_measuring() const noexcept { return rebuilder_.is_measuring(); }
  /// Collective: in those iterations after which buckets may be proposed. Blocks: the caller.
  void end_iteration(ProcessGroup& group, int leader) {
    proposal_ = rebuilder_.end_iteration(group, leader);
  }

 private:
  void use(BucketRebuilder::Proposal proposal);
  /// Buckets that were saved, as `use` takes them.
  [[nodiscard]] BucketRebuilder::Proposal proposal_of(const std::vector<GradientShape>& shapes,
                                                      const SavedBuckets& saved) const;

  std::vector<bool> members_;
  std::vector<std::size_t> indices_;   // of the members
  std::vector<std::size_t> place_of_;  // in indices_, of each parameter
  std::uint64_t hash_ = 0;
  std::uint64_t number_ = 0;
  BucketRebuilder rebuilder_;  // counts the members alone
  std::vector<BucketSpec> buckets_;
  std::string reason_;
  std::optional<BucketRebuilder::Proposal> proposal_;  // for the next backward
};

}  // namespace lockstep
