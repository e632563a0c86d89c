// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <memory>

#include "parallel/batch_norm/batch_statistics.h"

namespace lockstep {

/// `input` normalised by the global batch's statistics, with a gradient that knows that these come
/// from all ranks' inputs. `input` is contiguous in its memory format; `weight` and `bias` may be
/// undefined.
///
/// Collective: backward makes one `all_reduce`, where `input` needs a gradient.
[[nodiscard]] at::Tensor normalize_over_ranks(const at::Tensor& input, const at::Tensor& weight,
                                              const at::Tensor& bias,
                                              const BatchStatistics& statistics, double eps,
                                              std::shared_ptr<ProcessGroup> group);

}  // namespace lockstep
