// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <optional>
#include <vector>

#include "pipeline/runtime/graph_split.h"

namespace lockstep::pipeline {

/// The graph of one microbatch in one stage, from its forward to its backward. It holds the inputs
/// and the graph, and not the outputs: their memory goes when the next stage has them, unless the
/// backward needs it.
///
/// Thread-safety: one thread at a time.
class MicrobatchGraph {
 public:
  using Tensors = std::vector<at::Tensor>;

  /// `inputs`: leaves, where they need gradients; others count for nothing. `outputs`: of the
  /// stage, or the loss.
  MicrobatchGraph(Tensors inputs, const Tensors& outputs);

  /// Adds to the gradients of inputs and parameters. `gradients`: of the outputs that need some;
  /// undefined: none.
  void backward(const Tensors& gradients);
  /// The gradients of the inputs alone. Those of parameters follow with `backward_weight`, which
  /// comes to the same bits. Some of them are computed here already: see `GraphSplit`.
  void backward_input(const Tensors& gradients);
  void backward_weight();
  /// Of the inputs that need some; undefined: the stage did not use that input.
  [[nodiscard]] Tensors take_input_gradients() { return std::move(input_gradients_); }

 private:
  Tensors inputs_;
  std::vector<torch::autograd::Edge> roots_;  // of the outputs that need gradients
  Tensors input_gradients_;
  std::optional<Tensors> deferred_;  // the gradients of a backward that has no input to serve
  std::optional<GraphSplit> split_;
};

}  // namespace lockstep::pipeline
