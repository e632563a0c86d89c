// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_engine.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader/batch_source.h"
#include "data/samples/sample_layout.h"
#include "workers/shared_memory_channel.h"

namespace lockstep::data::detail {

/// What all processes of a loader must agree on about samples; lies in the channel's user area,
/// zeroed at first.
///
/// Nobody knows what a sample looks like before one has been fetched, and the rank does not fetch
/// it: a dataset that crashes must not take the rank along. `turn` says whose first sample decides:
/// the batch with this sequence, then `kSettled`. So the decision does not depend on which worker
/// is faster.
///
/// The payload, a piece of the ring, then begins with the structure of a sample (`layout_bytes`, 0
/// where batches are built as a whole), and the slots follow on a page of their own.
struct SharedLayout {
  static constexpr std::uint64_t kNobody = 0;
  static constexpr std::uint64_t kSettled = ~std::uint64_t{0};
  static constexpr std::uint64_t kSettling = std::uint64_t{1}
                                             << 63;  // plus the worker that is at it

  std::atomic<std::uint64_t> turn;
  // 1: samples are not such that one worker can pass them on to another (`can_be_passed_on`).
  std::atomic<std::uint32_t> samples_stay;
  std::uint64_t job_bytes;       // of what a spawned worker must know, behind this
  std::uint64_t payload_offset;  // valid once `turn` is kSettled, as all that follows
  std::uint64_t layout_bytes;
  std::uint64_t slot_bytes;

  [[nodiscard]] static SharedLayout& of(const workers::SharedMemoryChannel& channel) {
    return *reinterpret_cast<SharedLayout*>(channel.user_area());
  }
  [[nodiscard]] std::size_t slots_offset() const {
    return native::MemoryRing::round_up_to_page(layout_bytes);
  }
  [[nodiscard]] std::size_t payload_bytes(std::size_t slots) const {
    return slots_offset() + slots * slot_bytes;
  }
  /// Maps it where that has not been done.
  /// Throws: `std::system_error`.
  [[nodiscard]] static std::byte* payload(workers::SharedMemoryChannel& channel) {
    const auto& common = of(channel);
    return channel.ring().payload(common.payload_offset, common.payload_bytes(channel.slots()));
  }
};

/// A task's words: of an iterable dataset its shard, of others what follows the batch. The result
/// of an iterable dataset's batch is a `StreamResult`.
enum TaskWord : std::size_t { kEpoch, kShard, kBehind = kShard };
static_assert(kBehind + DataLoaderOptions::kReplacements <= workers::Task::kWords);

/// Known when all samples are there and not yet a batch.
struct StreamResult {
  static constexpr int kShift = 32;

  std::size_t samples = 0;
  std::size_t thrown = 0;  // passed over between these

  [[nodiscard]] std::uint64_t word() const { return samples | std::uint64_t{thrown} << kShift; }
  [[nodiscard]] static StreamResult of(std::uint64_t word) {
    return {word & 0xffff'ffffU, word >> kShift};
  }
};

/// `kShard` holds the pass too: each opens its shards again.
[[nodiscard]] constexpr std::uint64_t shard_word(std::uint64_t pass, std::size_t shard) {
  return pass << 20 | shard;
}
[[nodiscard]] constexpr std::size_t shard_of_word(std::uint64_t word) {
  return static_cast<std::size_t>(word & ((1U << 20) - 1));
}

/// What one worker needs. Threads that are stuck keep it alive.
struct WorkerJob {
  std::shared_ptr<workers::SharedMemoryChannel> channel;
  SampleSource source;
  BatchFacts facts;
  std::uint64_t seed = 0;
  std::function<void(std::size_t)> init;
  std::vector<int> cpus;
  bool is_own_process = true;
};

/// The loop of one worker: claim samples, fetch them, write them where the rank will read them.
///
/// Runs in the worker only. Touches no CUDA, MPI or autograd.
class BatchWorker {
 public:
  BatchWorker(const WorkerJob& job, std::size_t worker)
      : job_(job), channel_(*job.channel), worker_(worker), has_slot_(channel_.slots()) {}

  /// Blocks: until the pool stops.
  /// Throws: what the user's init function throws.
  void run();

 private:
  using Clock = std::chrono::steady_clock;
  struct Stream {
    std::uint64_t word = 0;
    std::uint64_t next = 0;
    std::unique_ptr<SampleStream> stream;
  };

  void work(const workers::Claim& claim);
  class Places;

  void fill_rows(const workers::Claim& claim, std::size_t& at);
  [[nodiscard]] bool write_first_row(const workers::Claim& claim, std::size_t row,
                                     const SampleTree& sample);
  void note(std::size_t slot, std::size_t position, std::int64_t item);
  void build_whole(const workers::Claim& claim, std::size_t& at);
  void fetch_part(const workers::Claim& claim);
  [[nodiscard]] std::optional<SampleTree> part(const workers::Claim& claim, std::size_t at);
  [[nodiscard]] std::optional<std::vector<SampleTree>> collect(const workers::Claim& claim,
                                                               std::size_t& at);
  [[nodiscard]] SampleTree make_batch(const workers::Claim& claim, std::vector<SampleTree> samples,
                                      std::size_t& at);
  [[nodiscard]] std::size_t place_of(const workers::Claim& claim, std::size_t number) const;
  void put_whole(const workers::Claim& claim, const SampleTree& batch);
  [[nodiscard]] std::optional<std::vector<SampleTree>> read_stream(const workers::Claim& claim,
                                                                   std::size_t& thrown);
  void begin_collating(const workers::Claim& claim) const;
  void fail(const workers::Claim& claim, std::size_t at);

  // True when this claim's first sample shall decide; false when somebody else's has. Nothing when
  // the claim has become futile meanwhile.
  [[nodiscard]] std::optional<bool> await_turn(const workers::Claim& claim, std::size_t position);
  [[nodiscard]] bool settle(const workers::Claim& claim, const std::string& form,
                            std::size_t slot_bytes);
  void learn_layout();
  [[nodiscard]] std::byte* slot_memory(std::size_t slot);
  void reserve_slot(std::size_t offset, std::size_t bytes);
  [[nodiscard]] SharedLayout& shared() const { return SharedLayout::of(channel_); }

  void count_idle();
  void count_busy();

  const WorkerJob& job_;
  workers::SharedMemoryChannel& channel_;
  std::size_t worker_;
  std::optional<SampleLayout> layout_;
  std::vector<bool> has_slot_;   // slots whose memory this worker has reserved and mapped
  std::int64_t first_item_ = 0;  // of the batch that is collated
  std::map<std::size_t, Stream> streams_;
  Clock::time_point since_;
  Clock::time_point clocks_read_;
  std::uint64_t on_cpu_ = 0;
  std::uint64_t delayed_ = 0;
};

}  // namespace lockstep::data::detail
