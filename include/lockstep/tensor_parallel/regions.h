// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <memory>

/// @file
/// The edges of a tensor-parallel region, for programs in which **every rank computes the same
/// loss**: outside of the region, all ranks have the same tensors and the same gradients; inside,
/// each has a part. What is minimised is that one loss, not the sum of the ranks' copies of it.
/// Where the ranks' losses are different and added, `<lockstep/tensor_parallel/autograd.h>` is
/// right.
///
/// Forward and backward of each function are a pair, and the other half of the pair is a function
/// of this file as well, so that results can be differentiated several times:
///
/// | function | forward | backward |
/// |---|---|---|
/// | `copy_to` | nothing | all-reduce |
/// | `reduce_from` | all-reduce | nothing |
/// | `scatter_to` | own part | all-gather |
/// | `gather_from` | all-gather | own part |
/// | `gather_from_sequence` | all-gather | reduce-scatter |
/// | `reduce_scatter_to_sequence` | reduce-scatter | all-gather |
/// | `all_to_all` | all-to-all | all-to-all, dimensions exchanged |
///
/// Inputs and gradients may have any strides. In a group of one rank, each function returns its
/// input.
///
/// Shapes: equal on all ranks. Negative dimensions count from the end.
/// Blocks: the calling thread, in each direction that communicates, until the group's deadline.
/// Collective: all ranks call them, and their backwards, over graphs of the same structure:
/// backward starts its collectives in the same order then.
///
/// Thread-safety: as the group's, one thread at a time; on a device, backward runs in autograd's
/// thread, while the thread that called it waits.
///
/// Throws: `c10::Error` for a null group, an undefined tensor, or sizes that the ranks do not
/// divide; what a collective throws, `MismatchError` for shapes that differ among others.
///
/// Source: Shoeybi et al., "Megatron-LM", 2019; Korthikanti et al., "Reducing Activation
/// Recomputation in Large Transformer Models", 2022.

namespace lockstep::tensor_parallel {

/// Into the region: every rank goes on with the same tensor, whose gradient is the sum of what the
/// ranks make of it. Also for a parameter that all ranks have, and use on parts of the data. The
/// result is the input's memory: do not change it in place.
[[nodiscard]] LOCKSTEP_API at::Tensor copy_to(const at::Tensor& input,
                                              const std::shared_ptr<ProcessGroup>& group);

/// Out of the region: the sum of what the ranks have.
[[nodiscard]] LOCKSTEP_API at::Tensor reduce_from(const at::Tensor& input,
                                                  const std::shared_ptr<ProcessGroup>& group);

/// Into the region: this rank's part along `dim` of a tensor that all have.
[[nodiscard]] LOCKSTEP_API at::Tensor scatter_to(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 std::int64_t dim = -1);

/// Out of the region: the parts of all ranks, joined along `dim`. All ranks go on in the same way,
/// so their gradients are equal and each takes its part.
[[nodiscard]] LOCKSTEP_API at::Tensor gather_from(const at::Tensor& input,
                                                  const std::shared_ptr<ProcessGroup>& group,
                                                  std::int64_t dim = -1);

/// From one cut to another: parts of the sequence are joined along `dim`, and each rank goes on
/// with its own part of a layer. So the gradients differ, and are added.
[[nodiscard]] LOCKSTEP_API at::Tensor gather_from_sequence(
    const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group, std::int64_t dim = 0);

/// The way back: the sum of what the ranks have, of which each keeps its part of the sequence.
[[nodiscard]] LOCKSTEP_API at::Tensor reduce_scatter_to_sequence(
    const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group, std::int64_t dim = 0);

/// From a cut along `concat_dim` to one along `split_dim`: from parts of the sequence to parts of
/// the heads, for example.
[[nodiscard]] LOCKSTEP_API at::Tensor all_to_all(const at::Tensor& input,
                                                 const std::shared_ptr<ProcessGroup>& group,
                                                 std::int64_t split_dim, std::int64_t concat_dim);

}  // namespace lockstep::tensor_parallel
