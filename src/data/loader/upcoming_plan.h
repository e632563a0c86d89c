// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "data/loader/upcoming.h"

namespace lockstep::data::detail {

/// The samples that come next in a pass whose batches are built in the calling thread. The plan is
/// asked for each batch once, in order, as without it, only earlier.
///
/// Thread-safety: none.
class UpcomingPlan {
 public:
  /// Begins with batch 0 of `plan`, which stays where it is.
  void start(const PassPlan& plan);
  /// The indices of a batch, which is the one after that before, into an empty vector.
  /// Throws: what the plan throws.
  void take(std::size_t batch, std::vector<std::int64_t>& items);

  /// Tells what follows place `from` of the batch that was taken last: the samples number `skip` to
  /// `most`, as far as they were not told before. What the plan throws ends it: the batch's own
  /// turn will say so.
  void tell(std::size_t from, std::size_t skip, std::size_t most, const UseUpcoming& use);

 private:
  [[nodiscard]] const std::vector<std::int64_t>* batch(std::size_t number);

  const PassPlan* plan_ = nullptr;
  std::size_t first_ = 0;                          // number of the first batch below
  std::deque<std::vector<std::int64_t>> batches_;  // from the one that was taken last on
  std::size_t told_batch_ = 0;                     // the first sample that has not been told
  std::size_t told_place_ = 0;
};

}  // namespace lockstep::data::detail
