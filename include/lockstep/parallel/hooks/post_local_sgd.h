// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/communication_hook.h>
#include <torch/arg.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::hooks {

/// What a `PostLocalSgd` is told. The same on all ranks, but for `subgroup`.
///
/// Thread-safety: a value; copies share the subgroup.
struct PostLocalSgdOptions {
  /// Backwards before this one average their gradients over all ranks.
  TORCH_ARG(std::uint64_t, start_iteration) = 0;
  /// From then on gradients are averaged over the ranks of this group, to which this rank belongs;
  /// null: not at all. `group->split(host_number)` makes a group of the ranks of one host.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, subgroup) = nullptr;
};

/// Lets ranks, or subgroups, train for themselves between two averages of the parameters: together
/// with `PeriodicModelAverager`.
///
/// This is a communication hook; copies share their state. Each model on each rank has one. From
/// `start_iteration` on, gradients and parameters are not the same on all ranks any more, until the
/// averager has made the parameters equal. With ranks that `join`, wrap the model with
/// `GradientAveraging::AllRanks`: the others' gradients, which are no averages over all ranks,
/// would be scaled as if they were.
///
/// Shapes: buckets of every dtype that ReduceOp::Avg takes.
/// Sends: for a bucket of N bytes an all-reduce of N bytes among all ranks, later among those of
/// the subgroup, or nothing. Blocks: nothing. Collective: all ranks register one that starts at the
/// same iteration. Thread-safety: one thread at a time, also for the subgroup. Owns: a share of the
/// subgroup, which is not closed. Throws: from backward what the groups throw. Source: Lin et al.,
/// "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020 (arXiv 1808.07217); PyTorch's
/// post_localSGD_hook.
class LOCKSTEP_API PostLocalSgd {
 public:
  /// `options.subgroup()` stays the caller's to close.
  explicit PostLocalSgd(const PostLocalSgdOptions& options = {});

  /// The hook itself; see `CommunicationHook`.
  Future<at::Tensor> operator()(ProcessGroup& group, const GradientBucketView& bucket) const;

  /// Backwards so far.
  [[nodiscard]] std::uint64_t steps() const noexcept;

  /// `steps()`, for a checkpoint; the same on all ranks.
  [[nodiscard]] std::string state() const;
  /// Goes on after as many backwards, on all copies of this hook. Not during backward.
  /// Throws: `c10::Error` for a text that `state` did not return.
  void load_state(const std::string& state) const;
  /// Does all of `load_state` but changing the hook, which calling the result does.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::string& state) const;

 private:
  struct State;

  std::shared_ptr<State> state_;
};

/// Averages parameters over the ranks now and then. Call it in every step, on all ranks, after the
/// optimizer's `step()` and before `zero_grad()`.
///
/// Among the calls 0, 1, 2, ..., those with the numbers `warmup_steps`, `warmup_steps + period`,
/// and so on average. Parameters without a gradient were not moved by the optimizer, and are left
/// out, as in PyTorch: which have one must be the same on all ranks, as it is after a backward of
/// DistributedDataParallel.
///
/// Sends: in such a step, an all-reduce of the parameters' bytes for each of their dtypes and
/// devices.
/// Thread-safety: as the group's.
/// Source: PyTorch's PeriodicModelAverager.
class LOCKSTEP_API PeriodicModelAverager {
 public:
  /// Averages over the ranks of `group`, in every `period`-th step.
  /// Throws: `c10::Error` for no group, a period below 1, or less than no warm-up.
  PeriodicModelAverager(std::shared_ptr<ProcessGroup> group, std::int64_t period,
                        std::int64_t warmup_steps = 0);

  /// Returns whether this step was one of those that average.
  ///
  /// Blocks: the calling thread, in such a step.
  /// Collective: all ranks call it in every step, with the same parameters.
  /// Throws: `c10::Error` if no parameter has a gradient in such a step; `MismatchError` if ranks
  /// have them for different parameters.
  bool average_parameters(const std::vector<at::Tensor>& parameters);

  /// Calls so far.
  [[nodiscard]] std::int64_t step() const noexcept { return step_; }

  /// `step()`, for a checkpoint; the same on all ranks.
  [[nodiscard]] std::string state() const;
  /// Goes on after as many calls.
  /// Throws: `c10::Error` for a text that `state` did not return.
  void load_state(const std::string& state);
  /// Does all of `load_state` but changing this object, which calling the result does.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::string& state);

 private:
  std::shared_ptr<ProcessGroup> group_;
  std::int64_t period_;
  std::int64_t warmup_steps_;
  std::int64_t step_ = 0;
};

}  // namespace lockstep::hooks
