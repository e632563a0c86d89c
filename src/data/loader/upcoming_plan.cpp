// SPDX-License-Identifier: BSD-3-Clause
// Beside step 3' of a sample's path: which samples come after those that are being fetched.
#include "data/loader/upcoming_plan.h"

#include <algorithm>
#include <utility>

namespace lockstep::data::detail {

void UpcomingPlan::start(const PassPlan& plan) {
  plan_ = &plan;
  first_ = 0;
  batches_.clear();
  told_batch_ = told_place_ = 0;
}

void UpcomingPlan::take(std::size_t number, std::vector<std::int64_t>& items) {
  while (first_ < number && !batches_.empty()) {
    batches_.pop_front();
    ++first_;
  }
  if (batches_.empty()) {
    first_ = number;
    std::vector<std::int64_t> fresh;
    plan_->items(number, fresh);
    batches_.push_back(std::move(fresh));
  }
  items = batches_.front();
}

// Nothing behind the last, or where the plan throws.
const std::vector<std::int64_t>* UpcomingPlan::batch(std::size_t number) {
  while (first_ + batches_.size() <= number) {
    const auto next = first_ + batches_.size();
    if (next >= plan_->batches) return nullptr;
    try {
      std::vector<std::int64_t> fresh;
      plan_->items(next, fresh);
      batches_.push_back(std::move(fresh));
    } catch (...) {
      return nullptr;
    }
  }
  return &batches_[number - first_];
}

void UpcomingPlan::tell(std::size_t from, std::size_t skip, std::size_t most,
                        const UseUpcoming& use) {
  std::size_t ahead = 0;
  for (auto number = first_; ahead < most; ++number) {
    const auto* items = batch(number);
    if (items == nullptr) return;
    const auto size = items->size();
    const auto first = number == first_ ? std::min(from, size) : 0;
    auto place = first;
    if (number < told_batch_) place = size;
    if (number == told_batch_) place = std::clamp(told_place_, first, size);
    if (ahead + place - first < skip) place = std::min(size, first + skip - ahead);
    for (; place < size && ahead + place - first < most; ++place) {
      if ((*items)[place] >= 0 && !use((*items)[place], place_word(number, place))) return;
      told_batch_ = number;
      told_place_ = place + 1;
    }
    ahead += size - first;
  }
}

}  // namespace lockstep::data::detail
