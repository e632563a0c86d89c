// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/bucket_planner.h"
#include "parallel/buckets/plan_learner.h"

namespace lockstep {

/// Parameters that need gradients at the same time, and their division into buckets, with what was
/// learned for it.
///
/// Of all parameters that the reducer has memory for, some may be frozen at present. Such sets come
/// back (a layer that is trained every other step), so the reducer keeps them. Indices are those of
/// the reducer. Thread-safety: guarded by the reducer's lock.
class PlannedSet {
 public:
  using Clock = PlanLearner::Clock;

  /// `shapes`: of all parameters. `members`: which of them belong to the set.
  PlannedSet(const std::vector<GradientShape>& shapes, std::vector<bool> members,
             const PlanLearner::Settings& settings);

  [[nodiscard]] const std::vector<bool>& members() const noexcept { return members_; }
  [[nodiscard]] const std::vector<BucketPlan>& plans() const noexcept { return plans_; }
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
  /// Of the division; 0 until `set_number`, and again when there is a better one.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
  void set_number(std::uint64_t number) noexcept { number_ = number; }
  /// A number that other sets hardly have.
  [[nodiscard]] std::uint64_t hash() const noexcept { return hash_; }
  [[nodiscard]] std::size_t frozen() const noexcept { return members_.size() - indices_.size(); }

  /// A better division that the last cycle found is the one from now on.
  void take_proposal();

  // --- as PlanLearner ---
  void begin_cycle() { learner_.begin_cycle(); }
  void note_ready(std::size_t parameter) { learner_.note_ready(place_of_[parameter]); }
  void note_reduced(std::size_t bytes, Clock::time_point begin, Clock::time_point end) {
    learner_.note_reduced(bytes, begin, end);
  }
  [[nodiscard]] bool is_measuring() const noexcept { return learner_.is_measuring(); }
  /// Collective in those cycles in which something is learned. Blocks.
  void end_cycle(ProcessGroup& group, int leader) { proposal_ = learner_.end_cycle(group, leader); }

 private:
  void use(PlanLearner::Proposal proposal);

  std::vector<bool> members_;
  std::vector<std::size_t> indices_;   // of the members
  std::vector<std::size_t> place_of_;  // in indices_, of each parameter
  std::uint64_t hash_ = 0;
  std::uint64_t number_ = 0;
  PlanLearner learner_;  // counts the members alone
  std::vector<BucketPlan> plans_;
  std::string reason_;
  std::optional<PlanLearner::Proposal> proposal_;  // for the next backward
};

}  // namespace lockstep
