// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/hooks/hook_state.h>
#include <lockstep/parallel/hooks/power_sgd_options.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace lockstep::hooks {

/// Sends factors of low rank instead of gradients: M, a gradient as a matrix of its first dimension
/// by all others, is replaced by P Q^T with P = the orthogonalised mean of M Q', Q = the mean of
/// M^T P, and Q' the Q of the step before.
///
/// This is a communication hook; copies share their state. Each model on each rank has one. State
/// belongs to parameters, so that it survives when buckets are rebuilt. Factors are computed in
/// float (Double buckets: in double) and orthogonalised in double. All ranks get the same bits if
/// they compute alike: the same LibTorch, kind of processor, and number of threads. A gradient that
/// is not finite makes the average not finite, and leaves no trace in the state.
///
/// Shapes: buckets of Float, Double, Half, BFloat16.
/// Sends: for a bucket one all-reduce of what is not compressed and the Ps, one of the Qs, both in
/// the bucket's dtype: the sum of (n + m) * rank over its compressed matrices and of the sizes of
/// its other gradients, in elements. A bucket with nothing to compress: one all-reduce where it
/// lies.
/// Blocks: nothing; the second half runs when the bucket is waited for.
/// Collective: all ranks register one with the same options.
/// Thread-safety: one thread at a time.
/// Owns: with error feedback as many elements as are compressed; twice the Q of each compressed
/// matrix; no parameter.
/// Throws: `c10::Error` for options out of range, and from backward for buckets of other dtypes.
/// Source: Vogels et al., "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
/// Optimization", NeurIPS 2019 (arXiv 1905.13727); PyTorch's powerSGD_hook, except that columns
/// that depend on others do no harm here.
class LOCKSTEP_API PowerSgd {
 public:
  /// No backward has been seen yet.
  /// Throws: `c10::Error` for options out of range.
  explicit PowerSgd(const PowerSgdOptions& options = {});

  /// The hook itself; see `CommunicationHook`.
  Future<at::Tensor> operator()(ProcessGroup& group, const GradientBucketView& bucket) const;

  /// Backwards so far.
  [[nodiscard]] std::uint64_t steps() const noexcept;
  /// What this rank has still to send for the gradients of `parameter`, in its shape; undefined if
  /// nothing was left out yet.
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const;

  /// What the next steps depend on, for a checkpoint: see `load_state`. `parameters`: those of all
  /// models that have this hook, by name. The tensors are the hook's own; do not change them.
  ///
  /// Throws: `c10::Error` where the hook has state of a parameter that is not among them.
  [[nodiscard]] HookState state(const ParametersByName& parameters) const;
  /// Goes on as the hook whose `state` it was: with the same rank of as many ranks, the same
  /// options, and the buckets of that model (`DistributedDataParallelBase::load_state`), the next
  /// steps have the same bits. All copies of the hook have this state then.
  ///
  /// Throws: `c10::Error` naming the entry or parameter for a state that is not whole, or of other
  /// parameters or options; then nothing has changed. Not during backward.
  void load_state(const HookState& state, const ParametersByName& parameters) const;
  /// Does all of `load_state` but changing the hook, which calling the result does.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const HookState& state,
                                                    const ParametersByName& parameters) const;
  /// Prepares to go on with the state that rank 0 had among another number of ranks: what is the
  /// same on all ranks is kept, and what each rank had still to send is dropped, which rank 0 logs.
  /// `rank`: of this process.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> adapt_state(const HookState& of_rank_0,
                                                  const ParametersByName& parameters,
                                                  int rank) const;

 private:
  class State;

  std::shared_ptr<State> state_;
};

/// Does what `PowerSgd` does with each bucket as one square matrix, filled up with zeros. Products
/// are fewer and larger, and approximations worse, since rows of different parameters have little
/// in common. Try `PowerSgd` first.
///
/// It is as `PowerSgd` in everything else, with these differences. The factor of the step before
/// belongs to the bucket's index, and is dropped when `plan()` or the bucket's parameters change;
/// errors belong to parameters and stay.
///
/// Sends: for a bucket of N elements 2 * rank * ceil(sqrt(N)) elements in two all-reduces; N in one
/// where `min_compression_rate` is not reached.
/// Thread-safety: one thread at a time.
/// Source: PyTorch's batched_powerSGD_hook, which takes no notice of `min_compression_rate`.
class LOCKSTEP_API BatchedPowerSgd {
 public:
  /// No backward has been seen yet.
  /// Throws: `c10::Error` for options out of range.
  explicit BatchedPowerSgd(const PowerSgdOptions& options = {});

  /// The hook itself; see `CommunicationHook`.
  Future<at::Tensor> operator()(ProcessGroup& group, const GradientBucketView& bucket) const;

  /// Backwards so far.
  [[nodiscard]] std::uint64_t steps() const noexcept;
  /// What this rank has still to send, as `PowerSgd::error_of`.
  [[nodiscard]] at::Tensor error_of(const at::Tensor& parameter) const;

  /// As `PowerSgd::state`.
  [[nodiscard]] HookState state(const ParametersByName& parameters) const;
  /// As `PowerSgd::load_state`.
  void load_state(const HookState& state, const ParametersByName& parameters) const;
  /// As `PowerSgd::prepare_state`.
  [[nodiscard]] std::function<void()> prepare_state(const HookState& state,
                                                    const ParametersByName& parameters) const;
  /// As `PowerSgd::adapt_state`.
  [[nodiscard]] std::function<void()> adapt_state(const HookState& of_rank_0,
                                                  const ParametersByName& parameters,
                                                  int rank) const;

 private:
  class State;

  std::shared_ptr<State> state_;
};

}  // namespace lockstep::hooks
