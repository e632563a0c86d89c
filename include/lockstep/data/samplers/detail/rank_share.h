// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/remainder.h>

#include <cstddef>
#include <cstdint>

namespace lockstep::data::detail {

/// Says which places of an epoch's order belong to one rank: from a start on every `world_size`-th,
/// in the order of the ranks. A place holds a sample or a batch, as the sampler decides.
class LOCKSTEP_API RankShare {
 public:
  /// `name` is the sampler's, for messages; not owned.
  /// Throws: `c10::Error` when the world has no ranks, or `rank` lies outside of it.
  RankShare(const char* name, int world_size, int rank, Remainder remainder);

  [[nodiscard]] int world_size() const noexcept { return static_cast<int>(world_size_); }
  [[nodiscard]] int rank() const noexcept { return static_cast<int>(rank_); }

  /// Throws: `c10::Error` when it lies behind the end of the order.
  void start_at(std::uint64_t place, std::uint64_t order_size);
  [[nodiscard]] std::uint64_t start() const noexcept { return start_; }

  /// How many places this rank has from the start on; from place 0 on.
  [[nodiscard]] std::size_t size(std::uint64_t order_size) const noexcept;
  [[nodiscard]] std::size_t whole_size(std::uint64_t order_size) const noexcept;
  /// Where number `position` of them is. What padding adds stands at the order's beginning.
  [[nodiscard]] std::uint64_t place(std::size_t position, std::uint64_t order_size) const noexcept;
  /// How many of `count` places from number `position` on are `step()` apart: all but what padding
  /// adds.
  [[nodiscard]] std::size_t run(std::size_t position, std::size_t count,
                                std::uint64_t order_size) const noexcept;
  [[nodiscard]] std::uint64_t step() const noexcept { return world_size_; }
  /// How much of the order the world has consumed when each rank has consumed `local` places since
  /// the start, or all that it had.
  [[nodiscard]] std::uint64_t consumed(std::size_t local, std::uint64_t order_size) const noexcept;

 private:
  // Places that are shared out from `start` on, beyond the order's end where padding repeats.
  [[nodiscard]] std::uint64_t shared_from(std::uint64_t start,
                                          std::uint64_t order_size) const noexcept;
  [[nodiscard]] std::size_t size_from(std::uint64_t start, std::uint64_t order_size) const noexcept;

  const char* name_;
  std::uint64_t world_size_;
  std::uint64_t rank_;
  Remainder remainder_;
  std::uint64_t start_ = 0;
};

}  // namespace lockstep::data::detail
