// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/per_group.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>
#include <torch/arg.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// What a `ReduceLROnPlateau` is told. All but the last two are Python's.
struct LOCKSTEP_API ReduceLROnPlateauOptions {
  /// `min`: a lower metric is better, as for a loss; `max`: a higher one.
  TORCH_ARG(std::string, mode) = "min";
  /// The rate is multiplied by this, below 1.
  TORCH_ARG(double, factor) = 0.1;
  /// How many epochs without a better metric pass before the next one reduces the rate.
  TORCH_ARG(std::int64_t, patience) = 10;
  /// By how much a metric must be better to count.
  TORCH_ARG(double, threshold) = 1e-4;
  /// `rel`: `threshold` is a part of the best metric; `abs`: it is a difference.
  TORCH_ARG(std::string, threshold_mode) = "rel";
  /// Epochs after a reduction that are not counted.
  TORCH_ARG(std::int64_t, cooldown) = 0;
  /// The rate does not become lower than this.
  TORCH_ARG(PerGroup, min_lr) = 0.0;
  /// Smaller changes of the rate are not made.
  TORCH_ARG(double, eps) = 1e-8;
  /// With a group, `step` compares the metrics of all ranks, and an error on all of them says where
  /// they differ. Without one, the program gives all ranks the same metric.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, group) = nullptr;
  /// The metric is the average of the group's ranks, added in the order of ranks.
  TORCH_ARG(bool, average_metric) = false;
};

/// A lower rate when a metric has stopped becoming better. It is no part of other schedules, since
/// its steps need the metric.
///
/// Every rank must get the same metric; otherwise, rates differ between ranks from some epoch on,
/// and the models with them. The option `group` takes care of that.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.
class LOCKSTEP_API ReduceLROnPlateau final : public Schedule {
 public:
  /// Throws: `c10::Error` for options out of range.
  explicit ReduceLROnPlateau(const ScheduledOptimizer& optimizer,
                             const ReduceLROnPlateauOptions& options = {});
  /// With the other defaults.
  ReduceLROnPlateau(const ScheduledOptimizer& optimizer, std::string mode, double factor = 0.1,
                    std::int64_t patience = 10);

  /// After each validation. A metric of no number counts as none that is better.
  ///
  /// Blocks: with a group, until all ranks have called it.
  /// Collective: with a group, a gather of one number.
  /// Throws: `c10::Error` where ranks have different metrics, and where the optimizer has more
  /// groups than before but `min_lr` is a list. What a collective throws.
  void step(double metrics);

  /// The best metric so far; infinite before the first.
  [[nodiscard]] double best() const noexcept { return best_; }
  /// Epochs since then that were not better.
  [[nodiscard]] std::int64_t num_bad_epochs() const noexcept { return num_bad_epochs_; }
  /// How many metrics there were.
  [[nodiscard]] std::int64_t last_epoch() const noexcept { return last_epoch_; }

 private:
  void visit(StateFields& fields) override;
  void check() const override;
  [[nodiscard]] double metric_of_ranks(double own) const;
  [[nodiscard]] bool is_better(double metric) const;
  void reduce_rates();

  std::string mode_;
  double factor_;
  std::int64_t patience_;
  double threshold_;
  std::string threshold_mode_;
  std::int64_t cooldown_;
  std::optional<double> default_min_lr_;
  std::vector<double> min_lrs_;
  double eps_;
  std::shared_ptr<ProcessGroup> group_;
  bool average_metric_;
  std::int64_t last_epoch_ = 0;
  double mode_worse_ = 0;
  double best_ = 0;
  std::int64_t cooldown_counter_ = 0;
  std::int64_t num_bad_epochs_ = 0;
};

}  // namespace lockstep::optim::lr_scheduler
