// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace lockstep::pipeline {

/// A backward in two parts: first the gradients of some inputs, later those of the parameters.
///
/// The nodes from which an input can be reached are its paths. Where an edge leaves the paths, it
/// leads to parameters. The first part runs the paths alone. Matrix products and convolutions do
/// not compute what leaves the paths then: the first part keeps the gradient that came to them, and
/// the second part runs them once more for the edges that leave. All other nodes compute both at
/// once, because it costs them little, or because a node of the program's own cannot run twice; the
/// second part takes what left the paths there from the first one. Then the second part goes on to
/// the parameters.
///
/// Thread-safety: one thread at a time.
/// Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, for the order of the two parts.
class GraphSplit {
 public:
  using Tensors = std::vector<at::Tensor>;
  using Edges = std::vector<torch::autograd::Edge>;

  /// Nothing where no input can be reached from one of the roots, whose gradient would get lost,
  /// and where an edge that leaves the paths leads on to where another one leaves them: there, the
  /// two parts would count something twice.
  [[nodiscard]] static std::optional<GraphSplit> of(const Edges& roots, const Edges& inputs);

  /// The gradients of the inputs. Memory of the graph that the second part does not need goes.
  [[nodiscard]] Tensors run_inputs(const Edges& roots, const Tensors& gradients,
                                   const Edges& inputs);
  /// Adds to the gradients of parameters.
  void run_weights();

 private:
  using NodePtr = decltype(torch::autograd::Edge::function);
  /// A node that runs twice.
  struct Heavy {
    NodePtr node;
    Edges leaving;
    std::shared_ptr<Tensors> gradients;  // what came to it
  };

  std::vector<NodePtr> paths_;
  std::vector<Heavy> heavy_;
  Edges leaving_;      // of all other nodes
  Tensors gradients_;  // of `leaving_`, after the first part
};

}  // namespace lockstep::pipeline
