// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <cstddef>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "parallel/buckets/bucket_planner.h"
#include "parallel/buckets/planned_set.h"

namespace lockstep {

/// Which parameters are in buckets at present, and in which: step 2 of the gradient path.
///
/// Buckets are divided among those parameters that are *planned*: of the set that needs gradients
/// at present. Sets come back, so each keeps its plan. A change of sets exchanges nothing: the
/// names of calls, which all ranks compare, tell the sets apart.
/// Owns: the sets. Thread-safety: guarded by the reducer's lock.
class BucketAssignment {
 public:
  /// `names` and `shapes`: of all parameters. `planned`: which need gradients at present; not none.
  /// `is_in_place`: gradients are made where they are reduced.
  BucketAssignment(std::vector<std::string> names, std::vector<GradientShape> shapes,
                   const DistributedDataParallelOptions& options, std::vector<bool> planned,
                   bool is_in_place);

  /// These need gradients from the next cycle on; not none.
  void want(std::vector<bool> planned) { planned_ = std::move(planned); }
  /// A cycle begins: the set that is wanted is the one from now on, by its plan. Returns whether
  /// buckets have to be divided anew.
  [[nodiscard]] bool follow(bool is_in_place);
  /// The one in use.
  [[nodiscard]] PlannedSet& set() noexcept { return sets_.front(); }
  [[nodiscard]] const PlannedSet& set() const noexcept { return sets_.front(); }
  /// Than in the cycle before.
  [[nodiscard]] bool is_other_set() const noexcept { return is_other_set_; }

  /// What stands in the names of this model's calls.
  [[nodiscard]] std::string call_name(const std::string& what) const;
  [[nodiscard]] std::vector<std::string> bucket_names() const;
  /// Adds to the text what this rank has frozen.
  void explain(MismatchError& error) const;

 private:
  void find_set(bool is_in_place);

  std::vector<std::string> names_;
  std::vector<GradientShape> shapes_;
  DistributedDataParallelOptions options_;
  std::list<PlannedSet> sets_;  // the one in use first
  std::vector<bool> planned_;   // wanted from the next cycle on
  bool is_other_set_ = false;
};

}  // namespace lockstep
