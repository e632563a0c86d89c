// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of the way of a sample, what all samplers share: which positions of the epoch's order are
// this rank's.
#include <c10/util/Exception.h>
#include <lockstep/data/epoch_sampler.h>

#include <algorithm>
#include <limits>

namespace lockstep::data {
namespace {

// Leaves room for what padding adds.
constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max() / 2);

}  // namespace

EpochSampler::EpochSampler(const Facts& facts)
    : name_(facts.name),
      dataset_size_(facts.dataset_size),
      order_size_(facts.order_size),
      world_size_(static_cast<std::uint64_t>(facts.world_size)),
      rank_(static_cast<std::uint64_t>(facts.rank)),
      seed_(facts.seed),
      remainder_(facts.remainder) {
  TORCH_CHECK(dataset_size_ > 0 && dataset_size_ <= kLargest, name_, ": dataset_size is ",
              dataset_size_, "; it must be from 1 to ", kLargest);
  TORCH_CHECK(order_size_ > 0 && order_size_ <= kLargest, name_, ": num_samples is ", order_size_,
              "; it must be from 1 to ", kLargest);
  TORCH_CHECK(facts.world_size > 0, name_, ": world_size is ", facts.world_size,
              "; it must be at least 1");
  TORCH_CHECK(facts.rank >= 0 && facts.rank < facts.world_size, name_, ": rank is ", facts.rank,
              "; it must be from 0 to ", facts.world_size - 1, " in a world of ", facts.world_size);
}

void EpochSampler::set_epoch(std::int64_t epoch) {
  TORCH_CHECK(epoch >= 0, name_, ": epoch is ", epoch, "; it must not be negative");
  if (epoch == epoch_) return;
  epoch_ = epoch;
  start_ = 0;
  epoch_changed();
}

void EpochSampler::start_at(std::uint64_t global_position) {
  TORCH_CHECK(global_position <= order_size_, name_, ": cannot start at position ", global_position,
              "; the order of an epoch has ", order_size_);
  start_ = global_position;
}

std::uint64_t EpochSampler::global_position(std::size_t local_samples) const noexcept {
  const auto shared = std::min(shared_from(start_), order_size_ - start_);
  if (local_samples > shared / world_size_) return start_ + shared;
  return start_ + std::min(shared, local_samples * world_size_);
}

std::int64_t EpochSampler::index(std::size_t position) const {
  TORCH_CHECK(position < size(), name_, ": position ", position, " is not below the size ", size());
  return index_unchecked(position);
}

std::vector<std::int64_t> EpochSampler::indices() const {
  std::vector<std::int64_t> mine(size());
  for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = index_unchecked(i);
  return mine;
}

std::int64_t EpochSampler::index_unchecked(std::uint64_t position) const {
  const auto place = start_ + rank_ + position * world_size_;
  return at(place < order_size_ ? place : place % order_size_);
}

std::uint64_t EpochSampler::shared_from(std::uint64_t start) const noexcept {
  const auto left = order_size_ - start;
  switch (remainder_) {
    case Remainder::Drop:
      return left / world_size_ * world_size_;
    case Remainder::Exact:
      return left;
    case Remainder::Pad:
      break;
  }
  return (left + world_size_ - 1) / world_size_ * world_size_;
}

std::size_t EpochSampler::size_from(std::uint64_t start) const noexcept {
  const auto shared = shared_from(start);
  return rank_ < shared ? (shared - rank_ + world_size_ - 1) / world_size_ : 0;
}

}  // namespace lockstep::data
