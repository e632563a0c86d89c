// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/data/samplers/detail/rank_share.h>
#include <lockstep/data/samplers/remainder.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::data {

/// What all samplers have in common. An epoch has one order of indices, which seed and epoch decide
/// and the world does not; rank r of W ranks takes its positions r, r + W, r + 2W, ...
///
/// So an epoch can be broken off on one world and continued on another: `global_position` says how
/// much of the order all ranks have consumed together, `start_at` goes on from there. With ranks in
/// step nothing is lost and nothing repeated, but for what `Remainder` says about the end.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API EpochSampler {
 public:
  virtual ~EpochSampler() = default;

  /// Another epoch begins at its start; `start_at` is forgotten. The epoch that is set already
  /// stays as it is.
  /// Throws: `c10::Error` when `epoch` is negative.
  void set_epoch(std::int64_t epoch);
  /// The epoch whose order `index` is about.
  [[nodiscard]] std::int64_t epoch() const noexcept { return epoch_; }

  /// How many indices this rank has from `start_at` on; 0 is possible.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// How many it has in a whole epoch: the largest `size()`.
  [[nodiscard]] std::size_t epoch_size() const noexcept { return share_.whole_size(order_size_); }
  /// Every index is below it.
  [[nodiscard]] std::size_t dataset_size() const noexcept { return dataset_size_; }
  /// Length of the epoch's order, over all ranks.
  [[nodiscard]] std::uint64_t order_size() const noexcept { return order_size_; }
  /// The number of ranks among which the order is shared out.
  [[nodiscard]] int world_size() const noexcept { return share_.world_size(); }
  /// The rank whose share this is.
  [[nodiscard]] int rank() const noexcept { return share_.rank(); }
  /// Together with the epoch it decides the order.
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

  /// This rank's index number `position` from `start_at` on.
  /// Throws: `c10::Error` when `position` is not below `size()`.
  [[nodiscard]] std::int64_t index(std::size_t position) const;
  /// Appends `count` of them, from number `position` on, to `indices`.
  /// Throws: `c10::Error` when there are not so many, and appends nothing then.
  void append_indices(std::size_t position, std::size_t count,
                      std::vector<std::int64_t>& indices) const;
  /// All `size()` of them.
  [[nodiscard]] std::vector<std::int64_t> indices() const;

  /// Makes this epoch begin at this position of its order, on all ranks alike.
  /// Throws: `c10::Error` when it lies behind the order's end.
  void start_at(std::uint64_t global_position);
  /// The position that `start_at` was given; 0 as a rule.
  [[nodiscard]] std::uint64_t start() const noexcept { return share_.start(); }
  /// How much of the epoch's order the world has consumed when each rank has consumed
  /// `local_samples` since `start()`, or all that it had: at most `order_size()`.
  [[nodiscard]] std::uint64_t global_position(std::size_t local_samples) const noexcept;

  /// Whether each epoch has an order of its own.
  [[nodiscard]] bool is_shuffled() const noexcept { return is_shuffled_; }
  /// Differs where the same seed and epoch give another order. Says nothing about the world.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept { return fingerprint_; }

 protected:
  /// What a derived class says about itself.
  struct Facts {
    const char* name;          ///< in messages; not owned
    std::size_t dataset_size;  ///< samples of the dataset
    std::uint64_t order_size;  ///< length of an epoch's order, over all ranks
    int world_size;            ///< ranks
    int rank;                  ///< whose share this is
    std::uint64_t seed;        ///< together with the epoch it decides the order
    Remainder remainder;       ///< what happens to samples that cannot be shared out evenly
  };

  /// The epoch is 0 at first.
  /// Throws: `c10::Error` when the dataset or the order is empty or absurdly large, the world has
  /// no ranks, or `rank` lies outside of it.
  explicit EpochSampler(const Facts& facts);
  EpochSampler(const EpochSampler&) = default;
  EpochSampler(EpochSampler&&) = default;
  EpochSampler& operator=(const EpochSampler&) = default;
  EpochSampler& operator=(EpochSampler&&) = default;

  /// What stands at `position`, below `order_size()`, of the current epoch's order.
  [[nodiscard]] virtual std::int64_t at(std::uint64_t position) const = 0;
  /// What stands there and at every `step`-th position behind it, all below `order_size()`: `at` of
  /// each, unless a sampler knows a quicker way.
  virtual void fill(std::span<std::int64_t> indices, std::uint64_t position,
                    std::uint64_t step) const;
  /// The epoch is another one now.
  virtual void epoch_changed() {}
  /// What `fingerprint()` returns; 0 unless it is said.
  void set_fingerprint(std::uint64_t value) noexcept { fingerprint_ = value; }
  /// What `is_shuffled()` returns; true unless it is said.
  void set_shuffled(bool is_shuffled) noexcept { is_shuffled_ = is_shuffled; }

 private:
  const char* name_;
  std::size_t dataset_size_;
  std::uint64_t order_size_;
  detail::RankShare share_;
  std::size_t size_ = 0;  // of this rank's share
  std::uint64_t seed_;
  std::int64_t epoch_ = 0;
  std::uint64_t fingerprint_ = 0;
  bool is_shuffled_ = true;
};

}  // namespace lockstep::data
