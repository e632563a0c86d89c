// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "data/loader/slot_memory.h"
#include "data/loader/worker_job.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// Builds batches that can only be made of all their samples: those with a collate function, of
/// strings, or of an iterable dataset. Several workers may fetch the samples of one batch; the
/// worker with the collate task makes the batch of them.
///
/// Runs in the worker only. Thread-safety: none; each worker has one.
/// Owns: the shards that this worker reads.
class CollatedBatches {
 public:
  CollatedBatches(const WorkerJob& job, std::size_t worker, SlotMemory& memory)
      : job_(job), channel_(*job.channel), worker_(worker), memory_(memory) {}

  /// Does what this claim asks for: a sample, the collate task, or a batch as a whole. False when
  /// the claim was given back and is no longer the caller's. When it throws, `at` is the place
  /// within the claim that is to blame.
  /// Throws: what the dataset or the collate function throws; `std::system_error` without memory.
  [[nodiscard]] bool build(const workers::Claim& claim, std::size_t& at);

 private:
  struct Stream {
    std::uint64_t word = 0;
    std::uint64_t next = 0;
    std::unique_ptr<SampleStream> stream;
  };
  // What a batch is made of.
  struct Samples {
    std::vector<SampleTree> values;
    std::int64_t first_item = 0;  // index of the first one; not of an iterable dataset
  };

  void fetch_one(const workers::Claim& claim);
  [[nodiscard]] std::optional<Samples> collect(const workers::Claim& claim, std::size_t& at);
  [[nodiscard]] std::optional<SampleTree> passed_on(const workers::Claim& claim, std::size_t at);
  [[nodiscard]] std::optional<Samples> read_stream(const workers::Claim& claim);
  [[nodiscard]] Stream& stream_at(const workers::Claim& claim, std::uint64_t number);
  [[nodiscard]] std::optional<std::size_t> read_batch(const workers::Claim& claim, Stream& state,
                                                      std::vector<SampleTree>& samples);
  void begin_collating(const workers::Claim& claim, std::int64_t first_item) const;
  [[nodiscard]] SampleTree make_batch(const workers::Claim& claim, std::vector<SampleTree> samples,
                                      std::size_t& at);
  [[nodiscard]] std::size_t place_of(const workers::Claim& claim, std::size_t number) const;
  [[nodiscard]] bool write(const workers::Claim& claim, const SampleTree& batch);
  [[nodiscard]] bool is_useless(const workers::Claim& claim) const;
  [[nodiscard]] std::int64_t epoch_of(const workers::Claim& claim) const;

  const WorkerJob& job_;
  workers::TaskChannel& channel_;  // the job's
  std::size_t worker_;
  SlotMemory& memory_;  // the worker's
  std::map<std::size_t, Stream> streams_;
};

}  // namespace lockstep::data::detail
