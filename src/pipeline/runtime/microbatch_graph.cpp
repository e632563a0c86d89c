// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/microbatch_graph.h"

#include <c10/util/Exception.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include <utility>

namespace lockstep::pipeline {

using torch::autograd::Edge;
using torch::autograd::Engine;
using torch::autograd::impl::gradient_edge;

namespace {

/// The roots to which a gradient has come, with these.
void keep_defined(std::vector<Edge>& roots, std::vector<at::Tensor>& gradients) {
  TORCH_INTERNAL_ASSERT(roots.size() == gradients.size());
  std::size_t kept = 0;
  for (std::size_t i = 0; i < roots.size(); ++i) {
    if (!gradients[i].defined()) continue;
    roots[kept] = std::move(roots[i]);
    gradients[kept++] = std::move(gradients[i]);
  }
  roots.resize(kept);
  gradients.resize(kept);
}

}  // namespace

MicrobatchGraph::MicrobatchGraph(Tensors inputs, const Tensors& outputs)
    : inputs_(std::move(inputs)) {
  for (const at::Tensor& output : outputs) {
    if (output.requires_grad()) roots_.push_back(gradient_edge(output));
  }
}

void MicrobatchGraph::backward(const Tensors& gradients) {
  Tensors defined = gradients;
  keep_defined(roots_, defined);
  if (!roots_.empty()) {
    Engine::get_default_engine().execute(roots_, defined, /*keep_graph=*/false,
                                         /*create_graph=*/false, /*accumulate_grad=*/true, {});
  }
  roots_.clear();
  for (at::Tensor& input : inputs_) {
    if (!input.requires_grad()) continue;
    input_gradients_.push_back(input.grad());
    input.mutable_grad().reset();
  }
  inputs_.clear();
}

void MicrobatchGraph::backward_input(const Tensors& gradients) {
  std::vector<Edge> ends;
  for (const at::Tensor& input : inputs_) {
    if (input.requires_grad()) ends.push_back(gradient_edge(input));
  }
  if (ends.empty()) {
    deferred_ = gradients;
    return;
  }
  Tensors defined = gradients;
  keep_defined(roots_, defined);
  if (roots_.empty()) {
    input_gradients_.resize(ends.size());
    return;
  }
  split_ = GraphSplit::of(roots_, ends);
  // It cannot be taken apart.
  if (!split_) return backward(defined);
  input_gradients_ = split_->run_inputs(roots_, defined, ends);
  roots_.clear();
  inputs_.clear();
}

void MicrobatchGraph::backward_weight() {
  if (deferred_) return backward(*std::exchange(deferred_, std::nullopt));
  if (split_) split_->run_weights();
  split_.reset();
}

}  // namespace lockstep::pipeline
