// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/workers/worker_failed_error.h>

#include <cstdint>
#include <optional>
#include <string>

namespace lockstep::data {

/// What became of the worker that a `WorkerError` speaks of.
using lockstep::WorkerFailure;

/// The loader could not get a sample or a batch. The loader stays usable: the next call goes on
/// with the next batch. A worker that dies is replaced, and what it had claimed is done again; so
/// it is an error only when the same sample has ended two of them.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API WorkerError : public WorkerFailedError {
 public:
  /// What is known of a failure; see the members of the same names.
  struct Context : WorkerFailedError::Context {
    std::optional<std::int64_t> batch;   ///< `batch_index()`
    std::optional<std::int64_t> sample;  ///< `sample_index()`
    std::string path;                    ///< `sample_path()`
  };

  /// `what()` becomes "data worker 1 (pid 4711) ...: MESSAGE", one line as far as MESSAGE is one.
  explicit WorkerError(const Context& context);

  /// Number of the batch within its epoch, from 0. Those of an iterable dataset are counted as they
  /// come, delivered or lost.
  [[nodiscard]] std::optional<std::int64_t> batch_index() const noexcept { return batch_; }
  /// Index into the dataset of the sample at which the worker was.
  [[nodiscard]] std::optional<std::int64_t> sample_index() const noexcept { return sample_; }
  /// What the dataset says of this sample (`describe(index)`); empty where it says nothing.
  [[nodiscard]] const std::string& sample_path() const noexcept { return path_; }

 private:
  std::optional<std::int64_t> batch_;
  std::optional<std::int64_t> sample_;
  std::string path_;
};

}  // namespace lockstep::data
