// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/optim/lr_scheduler/scheduled_optimizer.h>
#include <lockstep/optim/lr_scheduler/state_fields.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// @file
/// What all schedules of learning rates have. docs/training_toolbox.md says how they are used.
///
/// The rates have the bits of PyTorch 2.11's: each step goes on from the rate that the optimizer
/// has, in the same order of operations. A program that sets a rate itself is therefore heard.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

namespace lockstep::optim::lr_scheduler {

/// What all schedules have: rates of an optimizer, and a state.
///
/// The state is JSON under the keys of Python's `state_dict()`, with two more: `_class` has the
/// name of the class, and `param_groups` has what Python keeps in the groups of the optimizer.
/// Fractions have as many digits as bring back each bit.
///
/// Thread-safety: none.
/// Owns: nothing of the optimizer, which outlives it.
class LOCKSTEP_API Schedule {
 public:
  virtual ~Schedule() = default;
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  /// The rate of each group after the last step.
  [[nodiscard]] const std::vector<double>& get_last_lr() const noexcept { return last_lr_; }
  /// The optimizer whose rates this sets.
  [[nodiscard]] torch::optim::Optimizer& optimizer() const noexcept {
    return scheduled_.optimizer();
  }
  /// What another schedule of the same optimizer takes, so that both have the same base rates.
  [[nodiscard]] const ScheduledOptimizer& scheduled_optimizer() const noexcept {
    return scheduled_;
  }

  /// All that the schedule knows, but functions.
  [[nodiscard]] std::string state() const;
  /// Goes on from there, and sets the rates of the optimizer (and momentum, if it is cycled) to
  /// what they were then; Python leaves the optimizer as it is. What the constructor was told is
  /// replaced as well, as in Python. Throws: as `prepare_state`, with nothing changed.
  void load_state(const std::string& state) { prepare_state(state)(); }
  /// Checks the state, and changes nothing. What it returns loads the state.
  /// Throws: `c10::Error` for a text that is no state of this class, with values that the class
  /// does not take, or of another number of groups.
  [[nodiscard]] std::function<void()> prepare_state(const std::string& state);

 protected:
  /// `name`: of the class, for states and messages.
  Schedule(const char* name, const ScheduledOptimizer& optimizer);

  /// Shows each field. A class that adds fields calls that of its base too.
  virtual void visit(StateFields& fields);
  /// Throws where values are such as the class does not take, also after they were loaded.
  virtual void check() const {}

  /// The class, for messages.
  [[nodiscard]] const char* name() const noexcept { return name_; }
  /// The rates of the optimizer.
  [[nodiscard]] std::vector<double> group_rates() const;
  /// Sets them, and remembers them as the last ones.
  /// Throws: `c10::Error` for another number of rates than groups.
  void set_group_rates(const std::vector<double>& rates);
  /// Remembers the optimizer's rates as the last ones.
  void remember_rates() { last_lr_ = group_rates(); }
  /// What is known about the groups.
  [[nodiscard]] std::vector<ScheduleFields>& groups() const { return scheduled_.groups(); }
  /// Whether this or a part of it cycles momentum, which is a part of the state then.
  [[nodiscard]] virtual bool cycles_momentum() const noexcept { return false; }

 private:
  friend class CompositeLR;
  /// What is loaded beside the fields of the schedule itself.
  struct GroupState;
  void visit_all(StateFields& fields, GroupState& groups);

  const char* name_;
  ScheduledOptimizer scheduled_;
  std::vector<double> last_lr_;
};

/// A schedule that goes on by itself: `step()` after each step of the optimizer, or each epoch.
///
/// Thread-safety: none.
class LOCKSTEP_API LRScheduler : public Schedule {
 public:
  /// Sets the next rates.
  /// Throws: `c10::Error` where the formula has no value (a division by zero), or the schedule has
  /// ended; then rates and schedule stay as they are, but for the parts of a
  /// `ChainedScheduler` before the one that failed.
  virtual void step() = 0;

 protected:
  using Schedule::Schedule;

 private:
  friend class CompositeLR;
  friend class SequentialLR;
  /// Python's `_initial_step`, `recursive_undo` and `_update_lr(0)`.
  virtual void begin() = 0;
  virtual void undo_begin() = 0;
  virtual void restart() = 0;
};

/// A schedule whose rates follow from the number of steps. A program may derive from it: its class
/// overrides `get_lr`, and its constructor ends with `initial_step()`.
///
/// Thread-safety: none.
class LOCKSTEP_API EpochLR : public LRScheduler {
 public:
  void step() override;
  /// The number of steps so far; 0 after construction. The rates are those of this epoch.
  [[nodiscard]] std::int64_t last_epoch() const noexcept { return last_epoch_; }
  /// The rates that the schedule starts from, one a group.
  [[nodiscard]] const std::vector<double>& base_lrs() const noexcept { return base_lrs_; }

 protected:
  /// With a `last_epoch` of 0 or more, the schedule begins behind that epoch; the base rates must
  /// be known then. Throws: `c10::Error` where they are not, and for a `last_epoch` below -1.
  EpochLR(const char* name, const ScheduledOptimizer& optimizer, std::int64_t last_epoch);

  /// The rates at `last_epoch()`, mostly from those that the optimizer has.
  [[nodiscard]] virtual std::vector<double> get_lr() = 0;
  /// The rates at `last_epoch()` from the base rates alone, where there is a formula for that;
  /// `SequentialLR` begins its parts with it.
  [[nodiscard]] virtual std::optional<std::vector<double>> closed_form_lr() { return std::nullopt; }
  /// The step that sets the rates of the first epoch. The last thing that a constructor does.
  void initial_step() { begin(); }
  /// Whether `get_lr` is called for the initial step.
  [[nodiscard]] bool is_initial() const noexcept { return is_initial_; }
  /// How many steps there were, the initial one too.
  [[nodiscard]] std::int64_t step_count() const noexcept { return step_count_; }
  /// Each rate of the optimizer, times a factor.
  [[nodiscard]] std::vector<double> group_rates_times(double factor) const;
  /// Sets `last_epoch`, and the rates to what `rates` returns then. An error leaves both.
  void update(std::int64_t epoch, const std::function<std::vector<double>()>& rates);
  /// Replaces the base rates.
  void set_base_lrs(std::vector<double> rates) { base_lrs_ = std::move(rates); }
  void visit(StateFields& fields) override;

 private:
  void begin() final;
  void undo_begin() final { --last_epoch_; }
  void restart() final;

  std::int64_t last_epoch_;
  std::int64_t step_count_ = 0;
  std::vector<double> base_lrs_;
  bool is_initial_ = false;
};

}  // namespace lockstep::optim::lr_scheduler
