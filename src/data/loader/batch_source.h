// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/loader_input.h>
#include <lockstep/data/loader/loader_statistics.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "native/cuda/host_pinning.h"

namespace lockstep::data::detail {

/// What a source needs to know beside the dataset.
struct BatchFacts {
  std::size_t batch_size = 1;
  std::size_t largest_batch = 1;
  std::size_t shards = 0;       ///< of an iterable dataset that are this loader's
  std::size_t all_shards = 0;   ///< of all ranks together
  std::size_t first_shard = 0;  ///< this loader's are this one and every `shard_step`-th
  std::size_t shard_step = 1;
  bool drop_last = false;
  SamplePolicy on_failed_sample = SamplePolicy::Error;
  std::size_t read_ahead = 0;  ///< samples; 0 too where the dataset names no files
  std::size_t in_flight = 0;   ///< samples; 0 too where the dataset has no `get_async`
  std::chrono::milliseconds timeout{0};

  [[nodiscard]] std::size_t shard(std::size_t number) const {
    return first_shard + number * shard_step;
  }
};

/// Which shard gives the next batch: one after the other, those that have ended left out.
class ShardRound {
 public:
  void start(std::size_t shards) {
    has_ended_.assign(shards, false);
    last_.assign(shards, 0);
    batches_.assign(shards, 0);
    next_ = 0;
  }
  [[nodiscard]] bool is_over() const {
    return std::all_of(has_ended_.begin(), has_ended_.end(), [](bool ended) { return ended; });
  }
  struct Turn {
    std::size_t shard = 0;
    std::size_t batch = 0;  ///< number of the batch within its shard
  };
  /// Only when it is not over.
  [[nodiscard]] Turn take() {
    while (has_ended_[next_]) next_ = (next_ + 1) % has_ended_.size();
    const auto shard = next_;
    next_ = (next_ + 1) % has_ended_.size();
    return {shard, batches_[shard]++};
  }
  /// Batch `last` of the shard is its last one.
  void end(std::size_t shard, std::size_t last) {
    if (has_ended_[shard]) return;
    has_ended_[shard] = true;
    last_[shard] = last;
  }
  /// Whether the shard ended before this batch.
  [[nodiscard]] bool is_beyond(const Turn& turn) const {
    return has_ended_[turn.shard] && turn.batch > last_[turn.shard];
  }

 private:
  std::vector<bool> has_ended_;
  std::vector<std::size_t> last_;
  std::vector<std::size_t> batches_;
  std::size_t next_ = 0;
};

/// Where batches come from: this thread (`InlineSource`) or workers (`WorkerSource`).
class BatchSource {
 public:
  BatchSource() = default;
  virtual ~BatchSource() = default;
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;

  /// From the next batch on, all tensors lie in pinned memory. Before the first `start`.
  virtual void pin_batches(std::shared_ptr<native::HostPinning> pinning) = 0;
  virtual void start(PassPlan plan) = 0;
  /// What `LoaderEngine` asks for; a source that builds nothing ahead has nothing to prepare.
  virtual void prepare(std::function<PassPlan()> /*plan*/) {}
  [[nodiscard]] virtual bool start_prepared() { return false; }
  [[nodiscard]] virtual bool has_next() = 0;
  [[nodiscard]] virtual SampleTree next() = 0;
  [[nodiscard]] virtual bool is_ready() = 0;
  /// Batches of this pass that were delivered or lost.
  [[nodiscard]] virtual std::size_t delivered() const = 0;
  [[nodiscard]] virtual LoaderStatistics statistics() const = 0;
};

}  // namespace lockstep::data::detail
