// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/detail/epoch_progress.h>

namespace lockstep::data::detail {

void EpochProgress::choose(std::int64_t epoch) noexcept {
  is_chosen_ = true;
  if (epoch == chosen_) return;
  chosen_ = epoch;
  is_resumed_ = false;
  has_begun_ = false;
}

void EpochProgress::resume() noexcept {
  is_resumed_ = true;
  has_begun_ = false;
}

std::int64_t EpochProgress::begin(std::int64_t epoch) noexcept {
  const auto step = last_begun_ ? epoch - *last_begun_ : 1;
  last_begun_ = epoch;
  was_resumed_ = is_resumed_;
  is_resumed_ = false;
  is_chosen_ = false;
  has_begun_ = true;
  return epoch + step;
}

bool EpochProgress::repeats(std::int64_t epoch) const noexcept {
  return !is_chosen_ && !was_resumed_ && last_begun_ == epoch;
}

}  // namespace lockstep::data::detail
