// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/loader_engine.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "data/batch_builder.h"
#include "data/sample_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::data::detail {

/// What all processes of a loader must agree on about samples; lies in the channel's user area,
/// zeroed at first.
///
/// Nobody knows what a sample looks like before one has been fetched, and the rank does not fetch
/// it: a dataset that crashes must not take the rank along. `turn` says whose first sample decides:
/// the batch with this sequence, then `kSettled`. So the decision does not depend on which worker
/// is faster.
struct SharedLayout {
  static constexpr std::uint64_t kSettled = ~std::uint64_t{0};
  static constexpr std::uint64_t kSettling = std::uint64_t{1}
                                             << 63;  // plus the worker that is at it

  std::atomic<std::uint64_t> turn;
  SampleLayout sample;  // valid once `turn` is kSettled
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// The loop of one worker process: claim a slot, fetch its samples, write them where the rank will
/// read them.
///
/// Runs in the worker only. Touches no CUDA, MPI or autograd.
class BatchWorker {
 public:
  BatchWorker(workers::SharedMemoryChannel& channel, const SampleSource& source,
              std::size_t largest_batch, std::function<void(std::size_t)> init)
      : channel_(channel), source_(source), largest_batch_(largest_batch), init_(std::move(init)) {}

  /// Blocks: until the pool stops.
  /// Throws: what the user's init function throws.
  void run(std::size_t worker);

 private:
  void build(std::size_t slot);
  // Makes layout_ known; false when the batch was cancelled or the pool stops meanwhile.
  bool learn_layout(std::size_t slot, std::optional<torch::data::Example<>>& first);
  bool publish_layout(std::uint64_t sequence, const SampleLayout& sample);
  [[nodiscard]] BatchRows rows(std::size_t slot);
  [[nodiscard]] SharedLayout& shared() const;

  workers::SharedMemoryChannel& channel_;
  const SampleSource& source_;
  std::size_t largest_batch_;
  std::function<void(std::size_t)> init_;
  std::size_t worker_ = 0;
  std::optional<BatchLayout> layout_;
};

}  // namespace lockstep::data::detail
