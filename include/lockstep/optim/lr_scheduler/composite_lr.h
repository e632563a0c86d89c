// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduler.h>

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// @file
/// Schedules that are made of schedules, one after the other or all at once.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// A part of a `SequentialLR` or `ChainedScheduler`: how it is built (`part`), or a schedule that
/// is there. What is built has the optimizer and the base rates of the whole.
///
/// Thread-safety: none.
class LOCKSTEP_API SchedulePart {
 public:
  /// Builds a part.
  using Build = std::function<std::shared_ptr<LRScheduler>(const ScheduledOptimizer& optimizer)>;

  /// One that the whole builds.
  SchedulePart(Build build) : build_(std::move(build)) {}  // NOLINT: implicit by design
  /// One that is there, and outlives the whole.
  SchedulePart(LRScheduler& built) : built_(&built, [](LRScheduler*) {}) {}  // NOLINT
  /// The same.
  SchedulePart(LRScheduler* built) : built_(built, [](LRScheduler*) {}) {}  // NOLINT
  /// One that is there.
  template <std::derived_from<LRScheduler> Kind>
  SchedulePart(std::shared_ptr<Kind> built) : built_(std::move(built)) {}  // NOLINT

 private:
  friend class CompositeLR;
  Build build_;
  std::shared_ptr<LRScheduler> built_;
};

/// What `SequentialLR` and `ChainedScheduler` have in common.
///
/// Thread-safety: none.
/// Owns: the parts that it has built.
class LOCKSTEP_API CompositeLR : public LRScheduler {
 public:
  /// The parts, as they were given.
  [[nodiscard]] const std::vector<std::shared_ptr<LRScheduler>>& schedulers() const noexcept {
    return schedulers_;
  }

 protected:
  /// Builds the parts, in their order. Throws: `c10::Error` for no parts, and for parts of another
  /// optimizer or with other base rates.
  CompositeLR(const char* name, const ScheduledOptimizer& optimizer,
              const std::vector<SchedulePart>& parts);

  void visit(StateFields& fields) override;
  void check() const override;
  [[nodiscard]] bool cycles_momentum() const noexcept override;
  /// Undoes what the constructors of the parts have counted.
  void undo_parts();
  /// Of the first part that is there, so that parts keep what they share; `optimizer`: there is
  /// none.
  [[nodiscard]] static ScheduledOptimizer shared_by(const std::vector<SchedulePart>& parts,
                                                    const ScheduledOptimizer* optimizer);

 private:
  void begin() final;
  void undo_begin() final { undo_parts(); }
  void restart() final;

  std::vector<std::shared_ptr<LRScheduler>> schedulers_;
  bool was_begun_ = false;
};

/// One schedule after the other: the next one begins at each milestone, with its first epoch. A
/// `SequentialLR` or `ChainedScheduler` can be its first part alone; in Python, a later one is an
/// error at its milestone.
///
///     SequentialLR schedule(optimizer, {part<LinearLR>(0.1, 1.0, 5), part<CosineAnnealingLR>(95)},
///                           {5});
///
/// Building it sets the rates to the base rates, and then to the first ones of the first part.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.SequentialLR`.
class LOCKSTEP_API SequentialLR final : public CompositeLR {
 public:
  /// `milestones`: where each part but the first begins, in rising order.
  /// Throws: `c10::Error` for no parts, parts of another optimizer, another number of milestones,
  /// and milestones that fall.
  SequentialLR(const ScheduledOptimizer& optimizer, const std::vector<SchedulePart>& schedulers,
               std::vector<std::int64_t> milestones, std::int64_t last_epoch = -1);

  void step() override;
  /// The number of steps so far; 0 after construction.
  [[nodiscard]] std::int64_t last_epoch() const noexcept { return last_epoch_; }

 private:
  void visit(StateFields& fields) override;
  void check() const override;

  std::vector<std::int64_t> milestones_;
  std::int64_t last_epoch_;
};

/// Several schedules at once: each step is one of each, and each goes on from the rate that the one
/// before has set.
///
/// Thread-safety: none.
/// Source: `torch.optim.lr_scheduler.ChainedScheduler`.
class LOCKSTEP_API ChainedScheduler final : public CompositeLR {
 public:
  /// Throws: `c10::Error` for no parts, and for parts of another optimizer.
  ChainedScheduler(const ScheduledOptimizer& optimizer,
                   const std::vector<SchedulePart>& schedulers);
  /// The same with the arguments in Python's order.
  ChainedScheduler(const std::vector<SchedulePart>& schedulers, const ScheduledOptimizer& optimizer)
      : ChainedScheduler(optimizer, schedulers) {}
  /// Of parts that are there, for their optimizer.
  explicit ChainedScheduler(const std::vector<SchedulePart>& schedulers);

  /// A part that throws leaves those before it one step further.
  void step() override;
};

/// How to build a part of a `SequentialLR` or `ChainedScheduler`: the arguments of its constructor
/// after the optimizer.
template <std::derived_from<LRScheduler> Kind, class... Arguments>
[[nodiscard]] SchedulePart part(Arguments&&... arguments) {
  return SchedulePart::Build([kept = std::tuple<std::decay_t<Arguments>...>(std::forward<Arguments>(
                                  arguments)...)](const ScheduledOptimizer& optimizer) {
    return std::apply(
        [&](const auto&... each) -> std::shared_ptr<LRScheduler> {
          return std::make_shared<Kind>(optimizer, each...);
        },
        kept);
  });
}
/// The same for a `SequentialLR` with lists in braces.
template <std::same_as<SequentialLR> Kind>
[[nodiscard]] SchedulePart part(std::vector<SchedulePart> schedulers,
                                std::vector<std::int64_t> milestones) {
  return SchedulePart::Build(
      [schedulers = std::move(schedulers),
       milestones = std::move(milestones)](const ScheduledOptimizer& optimizer) {
        return std::make_shared<SequentialLR>(optimizer, schedulers, milestones);
      });
}
/// The same for a `ChainedScheduler`.
template <std::same_as<ChainedScheduler> Kind>
[[nodiscard]] SchedulePart part(std::vector<SchedulePart> schedulers) {
  return SchedulePart::Build(
      [schedulers = std::move(schedulers)](const ScheduledOptimizer& optimizer) {
        return std::make_shared<ChainedScheduler>(optimizer, schedulers);
      });
}

}  // namespace lockstep::optim::lr_scheduler
