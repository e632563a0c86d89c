// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <optional>

#include "data/loader/slot_memory.h"
#include "data/loader/worker_job.h"
#include "data/samples/sample_layout.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// Fetches samples that have rows of their own in a batch, and writes each into its row.
///
/// Runs in the worker only. Thread-safety: none; each worker has one.
/// Owns: the layout of samples as this worker knows it.
class RowWriter {
 public:
  RowWriter(const WorkerJob& job, std::size_t worker, SlotMemory& memory)
      : job_(job), channel_(*job.channel), worker_(worker), memory_(memory) {}

  /// Fills the rows of this claim. False when the claim was given back and is no longer the
  /// caller's. When it throws, `at` is the place within the claim that is to blame.
  /// Throws: what the dataset throws; `c10::Error` for a sample that is unlike the others.
  [[nodiscard]] bool fill(const workers::Claim& claim, std::size_t& at);

 private:
  enum class Row { Done, Futile, GivenBack };
  [[nodiscard]] Row fill_row(const workers::Claim& claim, std::size_t row);
  [[nodiscard]] Row write_first_row(const workers::Claim& claim, std::size_t row,
                                    const SampleTree& sample);

  const WorkerJob& job_;
  workers::TaskChannel& channel_;  // the job's
  std::size_t worker_;
  SlotMemory& memory_;  // the worker's
  std::optional<SampleLayout> layout_;
};

}  // namespace lockstep::data::detail
