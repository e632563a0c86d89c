// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <vector>

/// @file
/// What `Ensemble::tune` tries and finds.
///
/// Thread-safety: values.
/// Source: the idea of measuring instances, threads and batch together is that of Packrat (ICML
/// 2025).

namespace lockstep::inference {

/// What `Ensemble::tune` is told.
struct LOCKSTEP_API TuneOptions {
  /// Cores that copies times threads of a member may take; 0: those that this process may use.
  TORCH_ARG(std::int64_t, cores) = 0;
  /// The values of `max_batch` that are tried, where the queue can have twice as many requests.
  TORCH_ARG(std::vector<std::int64_t>, batches) = {1, 4, 16};
  /// How long each setting is measured.
  TORCH_ARG(std::chrono::milliseconds, duration) = std::chrono::milliseconds(500);
  /// Settings whose p99 is longer are not the best; 0: any may be.
  TORCH_ARG(std::chrono::microseconds, longest_p99) = std::chrono::microseconds(0);
};

/// A setting of all members of an ensemble, and what was measured with it.
struct TuneTrial {
  std::int64_t copies = 1;         ///< `Member::copies`
  std::int64_t threads = 1;        ///< `Member::threads`
  std::int64_t max_batch = 1;      ///< `EnsembleOptions::max_batch`
  double requests_per_second = 0;  ///< with always twice as many requests under way as fit at once
  std::chrono::nanoseconds p50{};  ///< of a request
  std::chrono::nanoseconds p99{};  ///< of a request
};

/// What `Ensemble::tune` found.
struct TuneReport {
  TuneTrial best;                 ///< the most requests a second within `TuneOptions::longest_p99`;
                                  ///< the lowest p99 where no setting is within it
  std::vector<TuneTrial> trials;  ///< all, in the order in which they were measured
};

}  // namespace lockstep::inference
