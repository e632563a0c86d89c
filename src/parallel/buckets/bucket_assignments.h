// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/bucket_assignment.h"
#include "parallel/buckets/saved_assignments.h"

namespace lockstep {

/// The bucket assignments of a model, one for each set of parameters that need gradients at the
/// same time, and which of them is current: step 2 of the gradient data path.
///
/// The program may freeze and thaw parameters, and such sets come back, so each keeps its
/// assignment. Ranks exchange nothing when the set changes: the names of calls, which all ranks
/// compare, tell the sets apart.
/// Owns: the assignments. Thread-safety: guarded by the reducer's lock.
class BucketAssignments {
 public:
  /// `names` and `shapes` describe all parameters. `needed`: which parameters need gradients at
  /// present; at least one does. `is_in_place`: gradients are made where they are reduced.
  BucketAssignments(std::vector<std::string> names, std::vector<GradientShape> shapes,
                    const DistributedDataParallelOptions& options, std::vector<bool> needed,
                    bool is_in_place);

  /// These parameters, at least one, need gradients from the next iteration on.
  void set_needed(std::vector<bool> needed) { needed_ = std::move(needed); }
  /// An iteration begins: the assignment of the parameters that are needed becomes the current one.
  /// Returns whether buckets have to be rebuilt.
  [[nodiscard]] bool follow(bool is_in_place);
  /// The buckets of the current assignment, which has its number, are there.
  void note_built() { built_ = current().number(); }
  [[nodiscard]] BucketAssignment& current() noexcept { return assignments_.front(); }
  [[nodiscard]] const BucketAssignment& current() const noexcept { return assignments_.front(); }
  /// Whether the last iteration that was completed had another set of parameters, or none was.
  [[nodiscard]] bool is_other_set() const { return current().members() != completed_; }
  /// An iteration has been completed. Does what `BucketRebuilder::end_iteration` does.
  /// Collective: in those iterations after which buckets may be proposed. Blocks: the caller.
  void end_iteration(ProcessGroup& group, int leader);

  /// All sets, for a checkpoint. `plan`: the number of the newest assignment.
  [[nodiscard]] SavedAssignments saved(std::uint64_t plan) const;
  /// Takes the sets that were saved in place of its own from the next iteration on. They have
  /// parameters that there are. Without any, it begins anew.
  void restore(const SavedAssignments& saved, bool is_in_place);

  /// The name under which this model makes the call `what`.
  [[nodiscard]] std::string call_name(const std::string& what) const;
  [[nodiscard]] std::vector<std::string> bucket_names() const;
  /// Adds to the error's text what this rank has frozen.
  void explain(MismatchError& error) const;

 private:
  void make_current(bool is_in_place);

  std::vector<std::string> names_;
  std::vector<GradientShape> shapes_;
  DistributedDataParallelOptions options_;
  std::list<BucketAssignment> assignments_;  // the current one first
  std::vector<bool> needed_;                 // from the next iteration on
  std::uint64_t built_ = 0;                  // the assignment whose buckets there are
  std::vector<bool> completed_;              // the set of the last iteration that was completed
};

}  // namespace lockstep
