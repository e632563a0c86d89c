// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <optional>

#include "data/batch_source.h"
#include "data/sample_layout.h"

namespace lockstep::data::detail {

/// Builds batches in the calling thread: `workers(0)`, and the oracle for everything else.
class InlineSource : public BatchSource {
 public:
  explicit InlineSource(SampleSource source) : source_(std::move(source)) {}

  void start(BatchPlan plan) override;
  [[nodiscard]] std::size_t remaining() const override { return plan_.batches() - next_; }
  [[nodiscard]] Batch next() override;

 private:
  SampleSource source_;
  BatchPlan plan_;
  std::size_t next_ = 0;
  std::optional<SampleLayout> layout_;
};

}  // namespace lockstep::data::detail
