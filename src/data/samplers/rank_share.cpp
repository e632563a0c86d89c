// SPDX-License-Identifier: BSD-3-Clause
// Step 1 of a sample's path, for all samplers: decides which places of the epoch's order belong to
// this rank.
#include <c10/util/Exception.h>
#include <lockstep/data/samplers/detail/rank_share.h>

#include <algorithm>

namespace lockstep::data::detail {

RankShare::RankShare(const char* name, int world_size, int rank, Remainder remainder)
    : name_(name),
      world_size_(static_cast<std::uint64_t>(world_size)),
      rank_(static_cast<std::uint64_t>(rank)),
      remainder_(remainder) {
  TORCH_CHECK(world_size > 0, name_, ": world_size is ", world_size, "; it must be at least 1");
  TORCH_CHECK(rank >= 0 && rank < world_size, name_, ": rank is ", rank, "; it must be from 0 to ",
              world_size - 1, " in a world of ", world_size);
}

void RankShare::start_at(std::uint64_t place, std::uint64_t order_size) {
  TORCH_CHECK(place <= order_size, name_, ": cannot start at position ", place,
              "; the order of an epoch has ", order_size);
  start_ = place;
}

std::size_t RankShare::size(std::uint64_t order_size) const noexcept {
  return size_from(start_, order_size);
}

std::size_t RankShare::whole_size(std::uint64_t order_size) const noexcept {
  return size_from(0, order_size);
}

std::uint64_t RankShare::place(std::size_t position, std::uint64_t order_size) const noexcept {
  const auto place = start_ + rank_ + position * world_size_;
  return place < order_size ? place : place % order_size;
}

std::size_t RankShare::run(std::size_t position, std::size_t count,
                           std::uint64_t order_size) const noexcept {
  const auto first = start_ + rank_ + position * world_size_;
  if (first >= order_size) return 0;
  const auto left = order_size - first;
  return std::min<std::uint64_t>(count, (left + world_size_ - 1) / world_size_);
}

std::uint64_t RankShare::consumed(std::size_t local, std::uint64_t order_size) const noexcept {
  const auto shared = std::min(shared_from(start_, order_size), order_size - start_);
  if (local > shared / world_size_) return start_ + shared;
  return start_ + std::min(shared, local * world_size_);
}

std::uint64_t RankShare::shared_from(std::uint64_t start, std::uint64_t order_size) const noexcept {
  const auto left = order_size - start;
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

std::size_t RankShare::size_from(std::uint64_t start, std::uint64_t order_size) const noexcept {
  const auto shared = shared_from(start, order_size);
  return rank_ < shared ? (shared - rank_ + world_size_ - 1) / world_size_ : 0;
}

}  // namespace lockstep::data::detail
