// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/worker_error.h>

#include <chrono>
#include <exception>
#include <optional>
#include <vector>

#include "data/loader/batch_source.h"
#include "data/loader/look_ahead_counts.h"
#include "data/loader/pending_samples.h"
#include "data/loader/read_ahead.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_policy.h"
#include "data/loader/upcoming_plan.h"
#include "data/samples/sample_layout.h"

namespace lockstep::data::detail {

/// Builds batches in the calling thread: `workers(0)`, and the oracle for everything else.
class InlineSource : public BatchSource {
 public:
  InlineSource(SampleSource source, const BatchFacts& facts, std::uint64_t seed);

  void pin_batches(std::shared_ptr<native::HostPinning>) override { pins_ = true; }
  void start(PassPlan plan) override;
  [[nodiscard]] bool has_next() override;
  [[nodiscard]] SampleTree next() override;
  [[nodiscard]] bool is_ready() override { return false; }  // it would have to build one
  [[nodiscard]] std::size_t delivered() const override { return next_; }
  [[nodiscard]] LoaderStatistics statistics() const override;

 private:
  using Clock = std::chrono::steady_clock;

  class Places;
  // A batch, or why there is none.
  struct Built {
    SampleTree batch;
    std::size_t samples = 0;
    std::size_t skipped = 0;
    std::size_t replaced = 0;
    std::exception_ptr error;
  };

  void take_items();
  void begin_row(std::size_t row);
  void build();
  [[nodiscard]] Built build_next();
  [[nodiscard]] SampleTree build_rows(std::size_t& row, std::size_t& rows);
  [[nodiscard]] SampleTree build_whole(std::size_t& row, std::size_t& rows);
  [[nodiscard]] Built take_stream();
  [[nodiscard]] Built take_built();
  [[nodiscard]] SampleTree pinned(const SampleTree& batch);
  void look_ahead();
  void count_missing(const Built& built);
  void count_work(Clock::time_point since);
  [[nodiscard]] std::vector<SampleTree> read_stream(const ShardRound::Turn& turn);
  [[nodiscard]] static MissingSample missing_sample(std::optional<std::int64_t> index);
  void warn_of_missing(const MissingSample& sample);
  [[noreturn]] void lose();
  [[nodiscard]] WorkerError error_of(std::size_t batch, std::optional<std::int64_t> sample);

  SampleSource source_;
  BatchFacts facts_;
  std::uint64_t seed_;
  SampleGenerator generator_{SampleGenerator::ManualSeed::FollowedOutsideOfRanks};
  bool pins_ = false;
  PassPlan plan_;
  UpcomingPlan upcoming_;                    // where something looks ahead
  LookAheadCounts counts_{};                 // of these two
  std::optional<ReadAhead> read_ahead_;      // of a dataset that names its files
  std::unique_ptr<PendingSamples> pending_;  // of a dataset with `get_async`
  std::size_t row_ = 0;                      // of the sample that is being fetched
  std::vector<std::int64_t> items_;
  std::size_t next_ = 0;
  std::optional<Built> built_;  // the batch that comes next, where it has been looked for
  std::size_t replaced_ = 0;    // samples of the batch that is being built
  MissingSampleWarning missing_;
  std::optional<SampleLayout> layout_;
  std::size_t layout_bytes_ = 0;
  // Iterable datasets only.
  ShardRound round_;
  std::vector<std::unique_ptr<SampleStream>> streams_;
  std::vector<SampleTree> ahead_;
  ShardRound::Turn turn_;          // of that batch
  std::size_t skipped_ahead_ = 0;  // samples of it
  std::optional<MissingSample> missing_ahead_;
  std::exception_ptr error_ahead_;
  LoaderStatistics statistics_;
  Clock::time_point pass_start_;
};

}  // namespace lockstep::data::detail
