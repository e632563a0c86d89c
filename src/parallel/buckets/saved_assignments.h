// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// Buckets as lists of parameters, and why parameters are assigned to them.
struct SavedBuckets {
  std::vector<std::vector<std::size_t>> buckets;
  std::string reason;
};

/// A `BucketAssignment` for a checkpoint. Parameters are indices in a list of the user's.
struct SavedAssignment {
  SavedBuckets current;
  std::optional<SavedBuckets> proposal;  ///< for the next backward
  std::uint64_t number = 0;
  std::vector<std::size_t> caps;  ///< as `BucketRebuilder::Settings`
  // As BucketRebuilder:
  std::uint64_t iterations = 0;
  std::vector<std::size_t> order;
};

/// `BucketAssignments` for a checkpoint: the sets of parameters that came last, first.
struct SavedAssignments {
  std::uint64_t plan = 0;  ///< the number of the newest assignment
  std::vector<SavedAssignment> sets;
};

/// Stands for a parameter that there is no more.
inline constexpr std::size_t kGone = std::numeric_limits<std::size_t>::max();

/// Gives each parameter the index `index_of[parameter]`. Those that are gone are left out, with
/// buckets and sets that had no others, and with sets that an earlier one is equal to then.
[[nodiscard]] SavedAssignments renumbered(SavedAssignments saved,
                                          const std::vector<std::size_t>& index_of);

/// What is wrong with it, if there are `parameters` parameters; nothing, as a rule.
[[nodiscard]] std::string problem_of(const SavedAssignments& saved, std::size_t parameters);

}  // namespace lockstep
