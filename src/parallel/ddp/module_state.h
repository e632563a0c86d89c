// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/error.h>

#include <string>
#include <utility>
#include <vector>

namespace lockstep {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Of errors that the wrapper finds itself, between calls of the group.
[[nodiscard]] CommContext context_of(const ProcessGroup& group);
inline constexpr const char* kWrapper = "DistributedDataParallel";

/// Whether all ranks can have the same values of a parameter or buffer: dense, with data, and each
/// value in a place of its own. Views that show their memory conjugated or negated can.
/// `kind`: what it is. Throws: `c10::Error` naming it, and what to do.
void check_can_be_shared(const char* kind, const std::string& name, const at::Tensor& tensor);

/// Compares names, shapes, strides, dtypes and whether a gradient is wanted over all ranks;
/// `settings` too. `problem`: what this rank alone has found wrong, or nothing.
///
/// Collective. Throws: on every rank, `c10::Error` with the first rank's problem; `MismatchError`
/// naming the first entry in which a rank differs from rank 0.
void check_same_on_all_ranks(ProcessGroup& group, const std::string& problem,
                             const std::string& settings, const NamedTensors& tensors);

/// Copies the values of rank `root` to all ranks. Tensors on other devices go through the CPU.
///
/// Collective. Blocks: the calling thread.
void broadcast_tensors(ProcessGroup& group, const NamedTensors& tensors, int root);

/// The mean over those ranks that count, on all ranks; whole numbers are copied from rank `root`.
/// Complex numbers have a mean.
///
/// Collective. Blocks: the calling thread.
void average_tensors(ProcessGroup& group, const NamedTensors& tensors, bool counts, int root);

}  // namespace lockstep
