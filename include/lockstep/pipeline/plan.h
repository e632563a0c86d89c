// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// Who computes what in which order. This header needs no LibTorch.

#include <lockstep/core/export.h>
#include <lockstep/pipeline/action.h>
#include <lockstep/pipeline/simulation.h>
#include <lockstep/pipeline/step.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::pipeline {

/// The order in which each rank of a pipeline computes: the value that a `Schedule` makes for a
/// number of ranks, stages a rank and microbatches. All ranks make the same plan, and each follows
/// its own row of it.
///
/// Thread-safety: immutable after construction.
class LOCKSTEP_API Plan {
 public:
  /// The orders of all ranks, the first is that of rank 0. Stages and microbatches are those that
  /// occur. The order itself is examined by `check()`.
  /// Throws: `c10::Error` where a rank has no action, a stage is on two ranks, a number is negative
  /// or left out, ranks have different numbers of stages, or there are more than 2^20 actions.
  explicit Plan(std::vector<std::vector<Action>> actions);

  /// How many ranks.
  [[nodiscard]] std::int64_t ranks() const noexcept;
  /// How many stages, on all ranks together.
  [[nodiscard]] std::int64_t stages() const noexcept;
  /// How many stages each rank has.
  [[nodiscard]] std::int64_t stages_per_rank() const noexcept;
  /// Into how many microbatches a batch is cut.
  [[nodiscard]] std::int64_t microbatches() const noexcept;
  /// The rank that has this stage.
  /// Throws: `c10::Error` for a stage that does not exist.
  [[nodiscard]] std::int64_t rank_of(std::int64_t stage) const;
  /// The stages of this rank, in ascending order.
  /// Throws: `c10::Error` for a rank that does not exist.
  [[nodiscard]] const std::vector<std::int64_t>& stages_of(std::int64_t rank) const;
  /// What this rank computes, in this order.
  /// Throws: `c10::Error` for a rank that does not exist.
  [[nodiscard]] const std::vector<Action>& actions(std::int64_t rank) const;

  /// Whether a backward comes in two parts somewhere (`I` and `W`).
  [[nodiscard]] bool has_split_backward() const noexcept;
  /// The last action of this stage that makes gradients of its weights: they are complete with it.
  /// Throws: `c10::Error` for a stage that does not exist, or has no such action.
  [[nodiscard]] Action last_backward(std::int64_t stage) const;

  /// What this rank does in order, with messages.
  ///
  /// A receive is posted before the action during which its message would come, if all actions took
  /// the same time and a `B` took twice as long. That is at least one action before the message is
  /// used, so it can travel meanwhile, and no sender has to wait. It is not posted earlier: on some
  /// backends, a receive that waits holds up what comes behind it. Between two ranks, messages of a
  /// kind are posted in the order in which they are sent. A message between two stages of one rank
  /// does not appear.
  /// Throws: `c10::Error` for a rank that does not exist, and as `check()`.
  [[nodiscard]] std::vector<Step> steps(std::int64_t rank) const;

  /// The most inputs of this stage that exist at once, whatever the speed of the ranks: each from
  /// the begin of the forward that makes it, in the stage before, until the backward of this stage
  /// has ended with which it dies (`B` or `W`). With so many places for them, no rank ever waits
  /// for a free one. Inputs of stage 0 count from its own forward on.
  /// Throws: `c10::Error` for a stage that does not exist, and as `check()`.
  [[nodiscard]] std::int64_t peak_in_flight(std::int64_t stage) const;
  /// The same for gradients of this stage's output: each from the begin of the backward that makes
  /// it, in the stage behind, until the backward of this stage has ended with which it dies. The
  /// last stage gets none.
  /// Throws: as `peak_in_flight`.
  [[nodiscard]] std::int64_t peak_gradients_in_flight(std::int64_t stage) const;

  /// Proves that the plan can run. Each stage has each microbatch once, forward before backward and
  /// `I` before `W`. No rank waits for ever: neither where sends go on without waiting, nor where
  /// nothing is buffered and each send waits until its receive is posted.
  /// Throws: `c10::Error` which says what is missing or double, or which action of which rank waits
  /// for what.
  void check() const;

  /// What becomes of it when actions take these times. Each rank begins an action when its own
  /// action before and the one on whose result it depends have ended.
  /// Throws: `c10::Error` for costs that are negative or not finite, for entries of other stages,
  /// and as `check()`.
  [[nodiscard]] Simulation simulate(const SimulationCosts& costs) const;
  /// The same with a time for each action, for which `duration` is asked once.
  /// Throws: as the other one.
  [[nodiscard]] Simulation simulate(const std::function<double(const Action&)>& duration,
                                    double transfer = 0) const;

  /// A grid, one line a rank, in which each action takes one column. The ranks of a plan that fails
  /// `check()` do not wait for each other in it.
  [[nodiscard]] std::string to_text() const;
  /// PyTorch's form: one line a rank, actions with commas between them. `from_csv` reads it.
  [[nodiscard]] std::string to_csv() const;
  /// The plan of a text in PyTorch's form. Empty cells are skipped, and so are the cells that
  /// PyTorch derives from the others: `SEND_F`, `RECV_F`, `SEND_B`, `RECV_B`, `UNSHARD`, `RESHARD`,
  /// `REDUCE_GRAD`. Lockstep derives messages itself.
  /// Throws: `c10::Error` with line and cell for anything else, and as the constructor.
  [[nodiscard]] static Plan from_csv(std::string_view text);

  /// Whether both have the same actions in the same orders.
  bool operator==(const Plan& other) const { return actions_ == other.actions_; }

 private:
  std::vector<std::vector<Action>> actions_;
  std::vector<std::vector<std::int64_t>> stages_of_;
  std::vector<std::int64_t> rank_of_;
  std::int64_t microbatches_ = 0;
};

/// Writes `plan.to_text()`, without a line end behind it.
LOCKSTEP_API std::ostream& operator<<(std::ostream& out, const Plan& plan);

}  // namespace lockstep::pipeline
