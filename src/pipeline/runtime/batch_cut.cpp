// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/batch_cut.h"

#include <ATen/ops/tensor_split.h>
#include <c10/util/Exception.h>

namespace lockstep::pipeline {

CutBatch CutBatch::of(const std::vector<at::Tensor>& tensors, std::int64_t parts,
                      const char* what) {
  TORCH_CHECK(!tensors.empty(), "pipeline: this rank needs the ", what, ", and got no tensor");
  CutBatch cut;
  cut.parts.resize(static_cast<std::size_t>(parts));
  for (const at::Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.defined() && tensor.dim() > 0, "pipeline: the ", what,
                " must be tensors with rows along dimension 0, along which they are cut");
    if (&tensor == &tensors.front()) cut.rows = tensor.size(0);
    TORCH_CHECK(tensor.size(0) == cut.rows, "pipeline: one tensor of the ", what, " has ", cut.rows,
                " rows, another one ", tensor.size(0));
    TORCH_CHECK(cut.rows >= parts, "pipeline: the ", what, " of ", cut.rows,
                " rows cannot be cut into ", parts, " microbatches");
    const auto pieces = at::tensor_split(tensor, parts, 0);
    for (std::size_t i = 0; i < pieces.size(); ++i) cut.parts[i].push_back(pieces[i]);
  }
  return cut;
}

void check_targets(std::int64_t target_rows, std::int64_t data_rows, std::int64_t parts) {
  TORCH_CHECK(target_rows == data_rows || (data_rows % parts == 0 && target_rows % parts == 0),
              "pipeline: the data has ", data_rows, " rows and the targets have ", target_rows,
              "; cut into ", parts, " microbatches, they do not belong together");
}

}  // namespace lockstep::pipeline
