// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

namespace lockstep {

/// The average over the ranks of a sparse gradient: all ranks' rows are gathered and those with the
/// same index added. `local`: this rank's, not defined where it has none. `scale`: factor of this
/// rank's values.
///
/// Shapes: indices [sparse dimensions, entries], values [entries, ...] as torch.sparse_coo_tensor;
/// the number of entries may differ between ranks. Collective. Blocks: the calling thread.
/// Source: what PyTorch's gloo backend does for sparse gradients.
[[nodiscard]] at::Tensor average_sparse(ProcessGroup& group, const at::Tensor& local,
                                        const at::Tensor& parameter, double scale);

}  // namespace lockstep
