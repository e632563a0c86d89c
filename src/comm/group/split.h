// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/group/group_core.h"

namespace lockstep {

/// One rank's part of a call that makes groups of some of a group's ranks.
struct Division {
  int color;          ///< ranks with the same one form a group; -1: none
  int key;            ///< their order in it, before their ranks
  std::int64_t call;  ///< the same number on all ranks whose calls fit together
  const char* op;
};

/// The division for `ProcessGroup::new_group`, on rank `rank` of `size`. Throws: `c10::Error` for a
/// list that is empty, repeats a rank, or names one that there is not.
[[nodiscard]] Division division_of(const std::vector<int>& ranks, int rank, int size);

/// The group that this rank joins; null: none.
///
/// Collective. Blocks: the calling thread. Throws: `MismatchError` for calls that do not fit
/// together; what a collective throws.
[[nodiscard]] std::shared_ptr<GroupCore> divide_group(GroupCore& group, const Division& division);

}  // namespace lockstep
