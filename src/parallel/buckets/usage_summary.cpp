// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/usage_summary.h"

#include <algorithm>
#include <numeric>

namespace lockstep {

UsageSummary::UsageSummary(ProcessGroup& group, std::size_t parameters)
    : rank_(group.rank()),
      world_size_(group.size()),
      tensor_(group.allocate({world_size_ + static_cast<std::int64_t>(parameters) + 1}, at::kLong)),
      words_(tensor_.data_ptr<std::int64_t>()) {}

void UsageSummary::clear() {
  std::fill_n(words_, tensor_.numel(), std::int64_t{0});
  work_.reset();
}

void UsageSummary::set_samples(std::optional<std::int64_t> samples) {
  words_[rank_] = samples ? *samples + 1 : 0;
}

void UsageSummary::launch(ProcessGroup& group) {
  work_ = group.all_reduce(tensor_);
}

std::int64_t UsageSummary::total_samples() const {
  return std::accumulate(words_, words_ + world_size_, std::int64_t{0}) - active_ranks();
}

int UsageSummary::active_ranks() const {
  return static_cast<int>(world_size_ - std::count(words_, words_ + world_size_, std::int64_t{0}));
}

int UsageSummary::first_active_rank() const {
  for (int rank = 0; rank < world_size_; ++rank) {
    if (is_active(rank)) return rank;
  }
  return 0;
}

}  // namespace lockstep
