// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace lockstep::pipeline {

/// A batch in parts along dimension 0, whose sizes differ by at most 1, the larger ones first.
///
/// Thread-safety: a value. Source: torch.tensor_split, as torch.distributed.pipelining cuts.
struct CutBatch {
  std::int64_t rows = 0;  ///< of the whole
  std::vector<std::vector<at::Tensor>> parts;

  /// `what`: for errors. Throws: `c10::Error` for no tensors, tensors without dimensions or with
  /// different numbers of rows, and for fewer rows than parts.
  [[nodiscard]] static CutBatch of(const std::vector<at::Tensor>& tensors, std::int64_t parts,
                                   const char* what);
};

/// Throws: `c10::Error` where the rows of the targets do not belong to those of the data, which was
/// cut into as many parts.
void check_targets(std::int64_t target_rows, std::int64_t data_rows, std::int64_t parts);

}  // namespace lockstep::pipeline
