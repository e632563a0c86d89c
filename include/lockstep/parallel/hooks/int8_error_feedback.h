// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/hooks/hook_state.h>
#include <torch/arg.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace lockstep::hooks {

/// What an `Int8ErrorFeedback` is told. The same on all ranks.
///
/// Thread-safety: a value; copies are independent.
struct Int8ErrorFeedbackOptions {
  /// So many neighbouring elements share one scale, which is a 127th of the largest of them. A
  /// scale for the whole bucket would turn gradients of quiet layers into zeros beside those of
  /// loud ones; one for 1024 elements costs 0.4 % more bytes. A multiple of 4 from 4 to 1048576.
  TORCH_ARG(std::int64_t, chunk_elements) = 1024;
  /// Whether each rank adds what rounding left out of its gradients to the next ones.
  TORCH_ARG(bool, use_error_feedback) = true;
};

/// Sends gradients as whole numbers of eight bits, in two collectives: each rank gets its share of
/// all ranks' gradients (`all_to_all`), adds them up in float and in rank order, rounds the average
/// again, and gives it to all (`all_gather`). Each rounding leaves at most half a scale out. What
/// the second rounding leaves out, the rank that made it sends later.
///
/// This is a communication hook; copies share their state. Each model on each rank has one. State
/// belongs to parameters, so that it survives when buckets are rebuilt. All ranks get the same
/// bytes, and so the same bits. A gradient that is not finite makes its chunk of the average not a
/// number, and leaves no trace in the state.
///
/// Shapes: buckets of Float, Double, Half, BFloat16; Double's values beyond Float's range become
/// infinite or zero.
/// Sends: for a bucket of N elements 2 N (W-1)/W bytes a rank, and 4 more for each chunk: a quarter
/// of an all-reduce in Float. Gathering all ranks' numbers at once would take (W-1) N: the same for
/// two ranks, more for all others. A bucket smaller than W chunks has smaller ones, and is filled
/// up to a multiple of 4 W elements.
/// Blocks: nothing; the second collective starts when the bucket is waited for.
/// Collective: all ranks register one with the same options.
/// Thread-safety: one thread at a time.
/// Owns: a float (Double buckets: a double) for each element of the gradients; no parameter.
/// Throws: `c10::Error` for options out of range, and from backward for buckets of other dtypes.
/// Source: Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
/// Distributed Training of Speech DNNs", Interspeech 2014 (error feedback, two roundings).
class LOCKSTEP_API Int8ErrorFeedback {
 public:
  /// Nothing has been left out yet.
  /// Throws: `c10::Error` for options out of range.
  explicit Int8ErrorFeedback(const Int8ErrorFeedbackOptions& options = {});

  /// The hook itself; see `CommunicationHook`.
  Future<at::Tensor> operator()(ProcessGroup& group, const GradientBucketView& bucket) const;

  /// What this rank has still to send for the gradients of `parameter`, in its shape; undefined if
  /// nothing was left out yet.
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const;

  /// As `PowerSgd::state`.
  [[nodiscard]] HookState state(const ParametersByName& parameters) const;
  /// As `PowerSgd::load_state`.
  void load_state(const HookState& state, const ParametersByName& parameters) const;
  /// As `PowerSgd::prepare_state`.
  [[nodiscard]] std::function<void()> prepare_state(const HookState& state,
                                                    const ParametersByName& parameters) const;
  /// As `PowerSgd::adapt_state`; nothing of it is the same on all ranks.
  [[nodiscard]] std::function<void()> adapt_state(const HookState& of_rank_0,
                                                  const ParametersByName& parameters,
                                                  int rank) const;

 private:
  class State;

  std::shared_ptr<State> state_;
};

}  // namespace lockstep::hooks
