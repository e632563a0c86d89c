// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/loader_engine.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::data::detail {

/// The batches of one pass and how far it has come.
class BatchPlan {
 public:
  BatchPlan() = default;
  BatchPlan(std::vector<std::int64_t> indices, std::size_t batch_size, std::size_t batches)
      : indices_(std::move(indices)), batch_size_(batch_size), batches_(batches) {}

  [[nodiscard]] std::size_t batches() const noexcept { return batches_; }
  /// Dataset indices of batch `batch`.
  [[nodiscard]] std::span<const std::int64_t> items(std::size_t batch) const {
    const auto first = batch * batch_size_;
    return std::span(indices_).subspan(first, std::min(batch_size_, indices_.size() - first));
  }

 private:
  std::vector<std::int64_t> indices_;
  std::size_t batch_size_ = 1;
  std::size_t batches_ = 0;
};

/// Where batches come from: this thread (`InlineSource`) or worker processes (`ProcessSource`).
class BatchSource {
 public:
  BatchSource() = default;
  virtual ~BatchSource() = default;
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;

  virtual void start(BatchPlan plan) = 0;
  [[nodiscard]] virtual std::size_t remaining() const = 0;
  [[nodiscard]] virtual Batch next() = 0;
};

}  // namespace lockstep::data::detail
