// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/reduction_summary.h"

#include <algorithm>
#include <numeric>

namespace lockstep {

ReductionSummary::ReductionSummary(ProcessGroup& group, std::size_t parameters)
    : rank_(group.rank()),
      world_size_(group.size()),
      tensor_(group.allocate({world_size_ + static_cast<std::int64_t>(parameters) + 1}, at::kLong)),
      words_(tensor_.data_ptr<std::int64_t>()) {}

void ReductionSummary::clear() {
  std::fill_n(words_, tensor_.numel(), std::int64_t{0});
  work_.reset();
}

void ReductionSummary::set_samples(std::int64_t samples) {
  words_[rank_] = samples;
}

void ReductionSummary::launch(ProcessGroup& group) {
  work_ = group.all_reduce(tensor_);
}

std::int64_t ReductionSummary::total_samples() const {
  return std::accumulate(words_, words_ + world_size_, std::int64_t{0});
}

int ReductionSummary::active_ranks() const {
  return static_cast<int>(std::count_if(words_, words_ + world_size_,
                                        [](std::int64_t samples) { return samples > 0; }));
}

int ReductionSummary::first_active_rank() const {
  for (int rank = 0; rank < world_size_; ++rank) {
    if (words_[rank] > 0) return rank;
  }
  return 0;
}

}  // namespace lockstep
