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

[[nodiscard]] std::vector<at::Tensor> tensors_in(const NamedTensors& tensors);
[[nodiscard]] std::vector<std::string> names_in(const NamedTensors& tensors);

/// The context of errors that the wrapper finds itself, between calls of the group.
[[nodiscard]] CommContext context_of(const ProcessGroup& group);
inline constexpr const char* kWrapper = "DistributedDataParallel";

/// Whether all ranks can have the same values of a parameter or buffer: dense, with data, and each
/// value in a place of its own. Views that show their memory conjugated or negated can.
/// `kind`: "parameter" or "buffer", for the error's text.
/// Throws: `c10::Error` naming the tensor, and what to do.
void check_can_be_shared(const char* kind, const std::string& name, const at::Tensor& tensor);

/// Compares names, shapes, strides, dtypes and whether a gradient is wanted over all ranks, and
/// `settings` too. `problem`: what this rank alone has found wrong, or empty.
///
/// Blocks: the calling thread. Collective: all ranks call it.
/// Throws: on every rank, `c10::Error` with the first rank's problem; `MismatchError` naming the
/// first entry in which a rank differs from rank 0.
void check_same_on_all_ranks(ProcessGroup& group, const std::string& problem,
                             const std::string& settings, const NamedTensors& tensors);

/// Copies the values of rank `root` to all ranks. Tensors on other devices go through the CPU.
///
/// Blocks: the calling thread. Collective: all ranks call it.
void broadcast_tensors(ProcessGroup& group, const NamedTensors& tensors, int root);

/// Gives all ranks the mean over those ranks for which `counts` is true. Whole numbers have no mean
/// and are copied from rank `root`; complex numbers have one.
///
/// Blocks: the calling thread. Collective: all ranks call it.
void average_tensors(ProcessGroup& group, const NamedTensors& tensors, bool counts, int root);

}  // namespace lockstep
