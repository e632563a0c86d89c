// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/written_tensors.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include <utility>

#include "core/torch_version.h"

namespace lockstep {
namespace {

/// The node of the graph for a tensor that a collective wrote: every backward ends there.
class CollectiveBackward final : public torch::autograd::Node {
 public:
  CollectiveBackward(const char* op, torch::autograd::edge_list edges)
      : Node(std::move(edges)), op_(op) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& /*gradients*/) override {
    TORCH_CHECK(
        false, op_,
        ": backward has come to a tensor that this collective wrote, and it has no derivative; "
        "give it what detach() returns, or call it where gradients are off");
  }

 private:
  const char* op_;
};

bool is_leaf_or_part_of_one(const at::Tensor& tensor) {
  return tensor.is_leaf() || (tensor.is_view() && tensor._base().is_leaf());
}

void end_history(const at::Tensor& tensor, const char* op) {
  torch::autograd::check_inplace(tensor, /*requires_grad=*/true);
  torch::autograd::rebase_history(tensor, make_autograd_node<CollectiveBackward>(
                                              op, torch::autograd::collect_next_edges(tensor)));
}

}  // namespace

void note_written(const at::Tensor& tensor, const char* op) {
  if (tensor.is_inference()) return;
  if (tensor.requires_grad() && at::GradMode::is_enabled() && !is_leaf_or_part_of_one(tensor)) {
    end_history(tensor, op);
  }
  tensor.unsafeGetTensorImpl()->bump_version();
}

void note_written(const std::vector<at::Tensor>& tensors, const char* op) {
  for (const at::Tensor& tensor : tensors) note_written(tensor, op);
}

}  // namespace lockstep
