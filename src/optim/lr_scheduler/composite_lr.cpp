// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/optim/lr_scheduler/composite_lr.h>

#include <algorithm>
#include <cstddef>
#include <string>

namespace lockstep::optim::lr_scheduler {

ScheduledOptimizer CompositeLR::shared_by(const std::vector<SchedulePart>& parts,
                                          const ScheduledOptimizer* optimizer) {
  for (const auto& part : parts) {
    if (part.built_ == nullptr) continue;
    const auto& found = part.built_->scheduled_optimizer();
    if (optimizer == nullptr || &found.optimizer() == &optimizer->optimizer()) return found;
  }
  TORCH_CHECK(optimizer != nullptr, "ChainedScheduler: expects ",
              parts.empty() ? "at least one scheduler to be chained, but got none"
                            : "an optimizer where it is to build its schedulers");
  return *optimizer;
}

CompositeLR::CompositeLR(const char* name, const ScheduledOptimizer& optimizer,
                         const std::vector<SchedulePart>& parts)
    : LRScheduler(name, optimizer) {
  TORCH_CHECK(!parts.empty(), name, ": expects at least one scheduler, but got none");
  for (const auto& part : parts) {
    const std::size_t index = schedulers_.size();
    auto scheduler = part.build_ ? part.build_(optimizer) : part.built_;
    TORCH_CHECK(scheduler != nullptr, name, ": the scheduler at index ", index, " is null");
    TORCH_CHECK(&scheduler->optimizer() == &optimizer.optimizer(), name,
                ": expects all schedulers to belong to the same optimizer, but the one at index ",
                index, " belongs to another");
    TORCH_CHECK(
        scheduler->scheduled_optimizer().shares_with(optimizer), name, ": the scheduler at index ",
        index, " has base rates of its own; build all of them from one ScheduledOptimizer, or let ",
        name, " build them: part<LinearLR>(0.1, 1.0, 5)");
    schedulers_.push_back(std::move(scheduler));
  }
}

void CompositeLR::visit(StateFields& fields) {
  Schedule::visit(fields);
  if (was_begun_) {
    // Python's first step of a part leaves these two behind.
    fields.ignored("_step_count", "0");
    fields.ignored("_is_initial", "false");
  }
  auto count = static_cast<std::int64_t>(schedulers_.size());
  fields.objects("_schedulers", count, count, count,
                 [this](std::size_t i, StateFields& part) { schedulers_[i]->visit(part); });
}

void CompositeLR::check() const {
  for (const auto& scheduler : schedulers_) scheduler->check();
}

bool CompositeLR::cycles_momentum() const noexcept {
  return std::any_of(schedulers_.begin(), schedulers_.end(),
                     [](const auto& scheduler) { return scheduler->cycles_momentum(); });
}

void CompositeLR::undo_parts() {
  for (const auto& scheduler : schedulers_) scheduler->undo_begin();
}

void CompositeLR::begin() {
  was_begun_ = true;
  step();
}

void CompositeLR::restart() {
  TORCH_INTERNAL_ASSERT(false, "SequentialLR takes no composite but as its first part");
}

SequentialLR::SequentialLR(const ScheduledOptimizer& optimizer,
                           const std::vector<SchedulePart>& schedulers,
                           std::vector<std::int64_t> milestones, std::int64_t last_epoch)
    : CompositeLR("SequentialLR", shared_by(schedulers, &optimizer), schedulers),
      milestones_(std::move(milestones)),
      last_epoch_(last_epoch + 1) {
  TORCH_CHECK(last_epoch >= -1, "SequentialLR: last_epoch is ", last_epoch,
              "; it must be -1 or more");
  TORCH_CHECK(milestones_.size() + 1 == this->schedulers().size(),
              "SequentialLR: expects one scheduler more than milestones, but got ",
              this->schedulers().size(), " schedulers and ", milestones_.size(), " milestones");
  for (std::size_t i = 1; i < this->schedulers().size(); ++i) {
    TORCH_CHECK(dynamic_cast<const CompositeLR*>(this->schedulers()[i].get()) == nullptr,
                "SequentialLR: the scheduler at index ", i,
                " is a SequentialLR or ChainedScheduler, which can only be the first one");
  }
  SequentialLR::check();
  std::vector<double> rates;
  for (const auto& fields : groups()) {
    TORCH_CHECK(fields.initial_lr, "SequentialLR: the base rates of the optimizer are not known");
    rates.push_back(*fields.initial_lr);
  }
  set_group_rates(rates);
  undo_parts();
  LRScheduler& first = *this->schedulers().front();
  first.begin();
  remember_rates();
}

void SequentialLR::check() const {
  TORCH_CHECK(std::is_sorted(milestones_.begin(), milestones_.end()),
              "SequentialLR: the milestones are not in rising order");
  CompositeLR::check();
}

void SequentialLR::step() {
  const std::int64_t epoch = last_epoch_ + 1;
  const auto next = std::upper_bound(milestones_.begin(), milestones_.end(), epoch);
  const auto index = static_cast<std::size_t>(next - milestones_.begin());
  LRScheduler& scheduler = *schedulers()[index];
  if (index > 0 && milestones_[index - 1] == epoch) {
    scheduler.restart();
  } else {
    scheduler.step();
  }
  last_epoch_ = epoch;
  remember_rates();
}

void SequentialLR::visit(StateFields& fields) {
  fields.integers("_milestones", milestones_);
  fields.integer("last_epoch", last_epoch_);
  CompositeLR::visit(fields);
}

ChainedScheduler::ChainedScheduler(const ScheduledOptimizer& optimizer,
                                   const std::vector<SchedulePart>& schedulers)
    : CompositeLR("ChainedScheduler", shared_by(schedulers, &optimizer), schedulers) {
  remember_rates();
}

ChainedScheduler::ChainedScheduler(const std::vector<SchedulePart>& schedulers)
    : CompositeLR("ChainedScheduler", shared_by(schedulers, nullptr), schedulers) {
  remember_rates();
}

void ChainedScheduler::step() {
  for (const auto& scheduler : schedulers()) scheduler->step();
  remember_rates();
}

}  // namespace lockstep::optim::lr_scheduler
