// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <memory>

/// @file
/// Collectives that autograd can differentiate, for programs in which **the ranks' losses are
/// added**: what is minimised is the sum of the losses of all ranks, and a gradient is the
/// derivative of that sum. Where every rank computes the same loss instead, these functions would
/// give gradients that are too large by the number of ranks: `<lockstep/tensor_parallel/regions.h>`
/// is for that.
///
/// Each function returns a new tensor and leaves its input as it is. Inputs and gradients may have
/// any strides. The derivative is a collective too, so all ranks run the same backwards, over
/// graphs of the same structure: backward starts its collectives in the same order then. A rank
/// whose loss does not depend on a result, or whose input needs no gradient where that of other
/// ranks does, lets the others wait until their deadline. Results can be differentiated several
/// times.
///
/// Shapes: equal on all ranks, where a function does not say otherwise.
/// Blocks: the calling thread, forward and backward, until the group's deadline.
/// Collective: all ranks call them, and their backwards.
/// Thread-safety: as the group's, one thread at a time; on a device, backward runs in autograd's
/// thread, while the thread that called it waits.
/// Throws: `c10::Error` for a null group, an undefined tensor, or sizes that the ranks do not
/// divide; what a collective throws, `MismatchError` for shapes that differ among others.

namespace lockstep::autograd {

/// The combination of all ranks' inputs, on every rank. `op`: Sum, Avg, Max or Min. The gradient of
/// a maximum goes to the ranks that have it, in equal parts where there are several.
[[nodiscard]] LOCKSTEP_API at::Tensor all_reduce(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 ReduceOp op = ReduceOp::Sum);

/// The sum of all ranks' inputs on rank `root`, and zeros on the others.
[[nodiscard]] LOCKSTEP_API at::Tensor reduce(const at::Tensor& input,
                                             const std::shared_ptr<ProcessGroup>& group,
                                             int root = 0);

/// The input of rank `root`, on every rank. Of the inputs of others only shape and dtype count;
/// their gradients are zero.
[[nodiscard]] LOCKSTEP_API at::Tensor broadcast(const at::Tensor& input,
                                                const std::shared_ptr<ProcessGroup>& group,
                                                int root = 0);

/// All ranks' inputs one after another along `dim`, on every rank.
[[nodiscard]] LOCKSTEP_API at::Tensor all_gather(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 std::int64_t dim = 0);

/// The combination of all ranks' inputs, of which rank r gets part r along `dim`. `op`: Sum or Avg.
[[nodiscard]] LOCKSTEP_API at::Tensor reduce_scatter(const at::Tensor& input,
                                                     const std::shared_ptr<ProcessGroup>& group,
                                                     ReduceOp op = ReduceOp::Sum,
                                                     std::int64_t dim = 0);

/// Part r of the input along `split_dim` goes to rank r; what comes is joined along `concat_dim`,
/// in the order of ranks.
[[nodiscard]] LOCKSTEP_API at::Tensor all_to_all(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 std::int64_t split_dim = 0,
                                                 std::int64_t concat_dim = 0);

/// The same along the first dimension, with `input_splits[r]` rows for rank r and
/// `output_splits[r]` rows from it. Numbers of rows may differ between ranks.
[[nodiscard]] LOCKSTEP_API at::Tensor all_to_all(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 at::IntArrayRef output_splits,
                                                 at::IntArrayRef input_splits);

}  // namespace lockstep::autograd
