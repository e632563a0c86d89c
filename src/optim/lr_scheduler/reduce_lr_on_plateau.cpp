// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/reduce_lr_on_plateau.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

namespace lockstep::optim::lr_scheduler {

ReduceLROnPlateau::ReduceLROnPlateau(const ScheduledOptimizer& optimizer, std::string mode,
                                     double factor, std::int64_t patience)
    : ReduceLROnPlateau(
          optimizer,
          ReduceLROnPlateauOptions().mode(std::move(mode)).factor(factor).patience(patience)) {}

ReduceLROnPlateau::ReduceLROnPlateau(const ScheduledOptimizer& optimizer,
                                     const ReduceLROnPlateauOptions& options)
    : Schedule("ReduceLROnPlateau", optimizer),
      mode_(options.mode()),
      factor_(options.factor()),
      patience_(options.patience()),
      threshold_(options.threshold()),
      threshold_mode_(options.threshold_mode()),
      cooldown_(options.cooldown()),
      min_lrs_(options.min_lr().for_groups("ReduceLROnPlateau: min_lr", groups().size())),
      eps_(options.eps()),
      group_(options.group()),
      average_metric_(options.average_metric()) {
  if (!options.min_lr().is_list())
    default_min_lr_ = options.min_lr().for_groups("min_lr", 1).front();
  TORCH_CHECK(!average_metric_ || group_ != nullptr,
              "ReduceLROnPlateau: average_metric needs the group whose ranks it averages over");
  ReduceLROnPlateau::check();
  mode_worse_ = std::numeric_limits<double>::infinity() * (mode_ == "min" ? 1 : -1);
  best_ = mode_worse_;
}

void ReduceLROnPlateau::check() const {
  TORCH_CHECK(!(factor_ >= 1.0), "ReduceLROnPlateau: factor is ", factor_, "; it should be < 1.0");
  TORCH_CHECK(mode_ == "min" || mode_ == "max", "ReduceLROnPlateau: mode '", mode_,
              "' is unknown; expected min or max");
  TORCH_CHECK(threshold_mode_ == "rel" || threshold_mode_ == "abs",
              "ReduceLROnPlateau: threshold_mode '", threshold_mode_,
              "' is unknown; expected rel or abs");
}

double ReduceLROnPlateau::metric_of_ranks(double own) const {
  if (group_ == nullptr) return own;
  const at::Tensor all = at::empty({group_->size()}, at::kDouble);
  group_->all_gather(all, at::full({1}, own, at::kDouble)).wait();
  const auto* metrics = all.const_data_ptr<double>();
  if (average_metric_) {
    double sum = 0;
    for (int rank = 0; rank < group_->size(); ++rank) sum += metrics[rank];
    return sum / group_->size();
  }
  for (int rank = 1; rank < group_->size(); ++rank) {
    TORCH_CHECK(
        metrics[rank] == metrics[0] || (std::isnan(metrics[rank]) && std::isnan(metrics[0])),
        "ReduceLROnPlateau: the metric is ", metrics[0], " on rank 0 and ", metrics[rank],
        " on rank ", rank, "; give all ranks the same, or set average_metric(true)");
  }
  return own;
}

bool ReduceLROnPlateau::is_better(double metric) const {
  if (mode_ == "min") {
    return threshold_mode_ == "rel" ? metric < best_ * (1.0 - threshold_)
                                    : metric < best_ - threshold_;
  }
  return threshold_mode_ == "rel" ? metric > best_ * (threshold_ + 1.0)
                                  : metric > best_ + threshold_;
}

void ReduceLROnPlateau::step(double metrics) {
  const double metric = metric_of_ranks(metrics);
  ++last_epoch_;
  if (is_better(metric)) {
    best_ = metric;
    num_bad_epochs_ = 0;
  } else {
    ++num_bad_epochs_;
  }
  if (cooldown_counter_ > 0) {
    --cooldown_counter_;
    num_bad_epochs_ = 0;
  }
  if (num_bad_epochs_ > patience_) {
    reduce_rates();
    cooldown_counter_ = cooldown_;
    num_bad_epochs_ = 0;
  }
  remember_rates();
}

void ReduceLROnPlateau::reduce_rates() {
  auto rates = group_rates();
  if (rates.size() != min_lrs_.size()) {
    TORCH_CHECK(default_min_lr_, "ReduceLROnPlateau: the optimizer has ", rates.size(),
                " parameter groups, and min_lr has ", min_lrs_.size(),
                " values; make the schedule after add_param_group");
    min_lrs_.assign(rates.size(), *default_min_lr_);
  }
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const double reduced = std::max(rates[i] * factor_, min_lrs_[i]);
    if (rates[i] - reduced > eps_) rates[i] = reduced;
  }
  set_group_rates(rates);
}

void ReduceLROnPlateau::visit(StateFields& fields) {
  fields.number("factor", factor_);
  fields.optional("default_min_lr", default_min_lr_);
  fields.numbers("min_lrs", min_lrs_);
  fields.integer("patience", patience_);
  fields.integer("cooldown", cooldown_);
  fields.number("eps", eps_);
  fields.integer("last_epoch", last_epoch_);
  fields.text("mode", mode_);
  fields.number("threshold", threshold_);
  fields.text("threshold_mode", threshold_mode_);
  fields.number("mode_worse", mode_worse_);
  fields.number("best", best_);
  fields.integer("cooldown_counter", cooldown_counter_);
  fields.integer("num_bad_epochs", num_bad_epochs_);
  Schedule::visit(fields);
}

}  // namespace lockstep::optim::lr_scheduler
