// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace lockstep {

/// What all ranks must know of one another at the end of a backward: each rank's samples, and for
/// each parameter how many ranks used it, how many have a gradient that came too late for its
/// bucket, and how many have a sparse one.
///
/// These are whole numbers in registered memory of the CPU, a few hundred bytes. One all-reduce
/// behind the last bucket adds them up. Owns: that memory, and the all-reduce under way.
/// Thread-safety: guarded by the reducer's lock.
class UsageSummary {
 public:
  /// Collective: it allocates.
  UsageSummary(ProcessGroup& group, std::size_t parameters);

  /// Makes the summary ready to be written for the next backward.
  void clear();
  /// `samples` is empty where this rank has no data.
  void set_samples(std::optional<std::int64_t> samples);
  void add_used(std::size_t parameter) { entry(parameter) += kUsed; }
  void add_late(std::size_t parameter) { entry(parameter) += kLate; }
  void add_sparse(std::size_t parameter) { entry(parameter) += kSparse; }
  /// This rank has made forwards with all parameters frozen since the last backward.
  void add_idle() { words_[tensor_.numel() - 1] = 1; }

  void launch(ProcessGroup& group);
  [[nodiscard]] bool is_launched() const noexcept { return work_.has_value(); }
  /// Blocks: until the sums are there, since this thread reads them.
  void wait(ProcessGroup& group) { work_->wait(group.timeout()); }

  // --- after `wait`: sums over the ranks ---
  /// Whether a rank had data, even if that was 0 samples.
  [[nodiscard]] bool is_active(int rank) const { return words_[rank] != 0; }
  [[nodiscard]] std::int64_t total_samples() const;
  [[nodiscard]] int active_ranks() const;
  /// The first rank with data; 0 where none has any.
  [[nodiscard]] int first_active_rank() const;
  /// How many ranks have called `add_idle`.
  [[nodiscard]] std::int64_t idle() const { return words_[tensor_.numel() - 1]; }
  [[nodiscard]] std::int64_t used(std::size_t parameter) const { return entry(parameter) % kLate; }
  [[nodiscard]] std::int64_t late(std::size_t parameter) const {
    return entry(parameter) / kLate % kField;
  }
  [[nodiscard]] std::int64_t sparse(std::size_t parameter) const {
    return entry(parameter) / kSparse;
  }

 private:
  // A rank's number is its samples plus one, or 0 without data. A parameter's number holds three
  // counts of ranks.
  static constexpr std::int64_t kField = std::int64_t{1} << 21;
  static constexpr std::int64_t kUsed = 1;
  static constexpr std::int64_t kLate = kField;
  static constexpr std::int64_t kSparse = kField * kField;

  [[nodiscard]] std::int64_t& entry(std::size_t parameter) const {
    return words_[static_cast<std::size_t>(world_size_) + parameter];
  }

  int rank_;
  int world_size_;
  at::Tensor tensor_;
  std::int64_t* words_;
  std::optional<Work> work_;
};

}  // namespace lockstep
