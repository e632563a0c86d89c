// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

namespace lockstep {

/// The average of a sparse gradient over the ranks: all ranks' rows are gathered, and those with
/// the same index added. `local`: this rank's gradient, undefined where it has none. `scale`: the
/// factor of its values.
///
/// Shapes: indices [sparse dimensions, entries], values [entries, ...] as torch.sparse_coo_tensor;
/// the number of entries may differ between ranks.
/// Blocks: the calling thread. Collective: all ranks call it for the same parameter.
/// Source: what PyTorch's gloo backend does for sparse gradients.
[[nodiscard]] at::Tensor average_sparse(ProcessGroup& group, const at::Tensor& local,
                                        const at::Tensor& parameter, double scale);

}  // namespace lockstep
