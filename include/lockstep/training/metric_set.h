// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/training/metrics.h>

#include <concepts>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lockstep::training {

/// Replaces the sums of each metric by those of all ranks, in one all-reduce of all of them.
///
/// Blocks: until all ranks have come, the group's timeout at most.
/// Collective: with the same kinds of metrics in the same order.
/// Thread-safety: as the group.
/// Throws: `c10::Error` on all ranks when the ranks have different kinds; what a collective throws.
LOCKSTEP_API void reduce_in_place(ProcessGroup& group, const std::vector<Metric*>& metrics);

/// Copies of these metrics over the samples of all ranks, in one all-reduce. The metrics themselves
/// stay those of this rank, and go on.
///
///     const auto [loss, top1] = lockstep::training::reduce_metrics(*group, own_loss, own_top1);
///
/// All ranks get the same bits. Sums of whole numbers are exact.
///
/// Blocks: as `reduce_in_place`.
/// Collective: likewise.
/// Throws: likewise.
template <std::derived_from<Metric>... Metrics>
[[nodiscard]] std::tuple<Metrics...> reduce_metrics(ProcessGroup& group,
                                                    const Metrics&... metrics) {
  std::tuple<Metrics...> copies(metrics...);
  reduce_in_place(group,
                  std::apply([](auto&... copy) { return std::vector<Metric*>{&copy...}; }, copies));
  return copies;
}

/// Metrics with names, for logs. It refers to them; they must outlive it and stay where they are.
///
///     lockstep::training::MetricSet metrics;
///     metrics.add("train/loss", loss).add("train/top1", top1);
///     log.write(step, metrics.compute(*group));
///     metrics.reset();
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API MetricSet {
 public:
  /// Throws: `c10::Error` for an empty name, and for one that is there already.
  MetricSet& add(std::string name, Metric& metric);

  /// The results over the samples of all ranks, by names. The metrics stay those of this rank.
  /// Blocks: as `reduce_in_place`.
  /// Collective: with the same names and kinds of metrics in the same order.
  /// Throws: as `reduce_in_place`, and what `compute()` of a metric throws.
  [[nodiscard]] std::map<std::string, double> compute(ProcessGroup& group) const;
  /// The results over the samples of this rank.
  /// Throws: what `compute()` of a metric throws.
  [[nodiscard]] std::map<std::string, double> compute() const;
  /// Resets all of them.
  void reset();

 private:
  std::vector<std::pair<std::string, Metric*>> metrics_;
};

}  // namespace lockstep::training
