// SPDX-License-Identifier: BSD-3-Clause
// The function runs with gradients once, only to see which tensors it captures; its graph, and with
// it the activations, go at once. One node remains, with an edge to each input and to each captured
// tensor. Its backward runs the function again and computes the gradients of these edges in a
// backward of its own that goes no further; from there the outer backward carries on.
//
// Hooks on saved tensors would do with less, but LibTorch's default ones can be set from Python
// only. A backward of the whole recomputed graph, down to the parameters, would add to a
// parameter's gradient once for each checkpoint, run its hooks as often, and be of no use to
// `autograd::grad`.
#include <ATen/ops/alias.h>
#include <ATen/ops/empty.h>
#include <lockstep/training/activation_checkpoint.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/custom_class.h>

#include <cstdint>

#include "training/activation/graph_boundary.h"
#include "training/ambient/ambient_state.h"

namespace lockstep {
namespace {

using detail::TensorFunction;
using detail::Tensors;
using torch::autograd::AutogradContext;
using torch::autograd::Edge;
using torch::autograd::impl::gradient_edge;

bool needs_gradient(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad();
}

/// What a checkpoint keeps for the second run.
struct Segment : torch::CustomClassHolder {
  TensorFunction function;
  AutocastState autocast = AutocastState::current();
  std::optional<RandomState> random;
  std::vector<Edge> captured;
  Tensors inputs;   // until the graph node has them
  Tensors outputs;  // until the graph node has them; defined ones only
  struct Output {
    bool needs_gradient;
    std::vector<std::int64_t> sizes;
    at::ScalarType dtype;
  };
  std::vector<Output> expected;  // of the second time, undefined ones included
};

/// The graph of what is computed with these begins at them.
Tensors make_leaves(const Tensors& inputs) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) {
    if (!input.defined()) {
      leaves.emplace_back();
    } else {
      leaves.push_back(input.detach().requires_grad_(input.requires_grad()));
    }
  }
  return leaves;
}

/// An output that is an input or a captured tensor gets a node of its own, as all others have.
void give_own_nodes(Tensors& outputs) {
  for (at::Tensor& output : outputs) {
    if (needs_gradient(output)) output = at::alias(output);
  }
}

/// Weights that autocast has converted are graph nodes of earlier code: with its cache, the second
/// time would not meet the same ones.
Tensors run(const TensorFunction& function, const AutocastState& autocast, const Tensors& inputs) {
  const AutocastGuard guard(autocast.without_cache());
  Tensors outputs = function(inputs);
  give_own_nodes(outputs);
  return outputs;
}

std::vector<Segment::Output> describe(const Tensors& outputs) {
  std::vector<Segment::Output> described;
  for (const at::Tensor& output : outputs) {
    if (output.defined()) {
      described.push_back({output.requires_grad(), output.sizes().vec(), output.scalar_type()});
    } else {
      described.push_back({false, {}, at::ScalarType::Undefined});
    }
  }
  return described;
}

void check_same(const std::vector<Segment::Output>& expected,
                const std::vector<Segment::Output>& found) {
  TORCH_CHECK(expected.size() == found.size(), "checkpoint: the function returned ",
              expected.size(), " tensors, and ", found.size(), " when it ran again in backward");
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto& first = expected[i];
    const auto& again = found[i];
    TORCH_CHECK(first.sizes == again.sizes && first.dtype == again.dtype &&
                    first.needs_gradient == again.needs_gradient,
                "checkpoint: result ", i, " of the function was ", first.dtype, " ",
                at::IntArrayRef(first.sizes), first.needs_gradient ? "" : " without gradient",
                ", and ", again.dtype, " ", at::IntArrayRef(again.sizes),
                again.needs_gradient ? "" : " without gradient", " when it ran again in backward");
  }
}

std::vector<std::uint32_t> versions_of(const Tensors& tensors) {
  std::vector<std::uint32_t> versions;
  for (const at::Tensor& tensor : tensors) {
    const bool is_counted = tensor.defined() && !tensor.is_inference();
    versions.push_back(is_counted ? static_cast<std::uint32_t>(tensor._version()) : 0);
  }
  return versions;
}

/// Gradients of `ends` that come from `gradients` of `outputs`.
Tensors differentiate(const Tensors& outputs, const Tensors& gradients,
                      const std::vector<Edge>& ends, bool create_graph) {
  std::vector<Edge> roots;
  Tensors of_roots;
  auto gradient = gradients.begin();
  for (const at::Tensor& output : outputs) {
    if (!output.defined()) continue;  // has no gradient among these
    if (output.requires_grad() && gradient->defined()) {
      roots.push_back(gradient_edge(output));
      of_roots.push_back(*gradient);
    }
    ++gradient;
  }
  if (roots.empty()) return Tensors(ends.size());
  return torch::autograd::Engine::get_default_engine().execute(
      roots, of_roots, /*keep_graph=*/create_graph, create_graph, /*accumulate_grad=*/false, ends);
}

struct Recompute : torch::autograd::Function<Recompute> {
  /// `ways`: the inputs that need a gradient, then a tensor on each captured edge.
  static Tensors forward(AutogradContext* context, const c10::intrusive_ptr<Segment>& segment,
                         const at::TensorList& /*ways*/) {
    context->set_materialize_grads(false);
    context->save_for_backward(std::move(segment->inputs));
    context->saved_data["segment"] = c10::IValue::make_capsule(segment);
    Tensors results;
    Tensors without_gradient;
    for (const at::Tensor& output : segment->outputs) {
      results.push_back(output.detach());
      if (!output.requires_grad()) without_gradient.push_back(results.back());
    }
    context->mark_non_differentiable(without_gradient);
    segment->outputs.clear();
    return results;
  }

  static Tensors backward(AutogradContext* context, const Tensors& gradients) {
    const auto segment =
        c10::static_intrusive_pointer_cast<Segment>(context->saved_data["segment"].toCapsule());
    const Tensors saved = context->get_saved_variables();
    // To be differentiated again, the gradients have to lead on to the inputs themselves.
    const bool create_graph = at::GradMode::is_enabled();
    const at::AutoGradMode with_gradients(true);
    const Tensors inputs = create_graph ? saved : make_leaves(saved);

    const GraphMoment begin;
    const Tensors outputs = run_again(*segment, inputs);
    check_same(segment->expected, describe(outputs));
    std::vector<Edge> edges;
    for (const at::Tensor& input : inputs) {
      if (needs_gradient(input)) edges.push_back(gradient_edge(input));
    }
    edges.insert(edges.end(), segment->captured.begin(), segment->captured.end());
    const GraphBoundary boundary(outputs, begin);
    const Redirection redirection(boundary, edges);
    Tensors results = differentiate(outputs, gradients, redirection.ends(), create_graph);
    results.insert(results.begin(), at::Tensor());  // of the segment
    return results;
  }

 private:
  static Tensors run_again(const Segment& segment, const Tensors& inputs) {
    std::optional<RandomGuard> random;
    if (segment.random) random.emplace(*segment.random);
    return run(segment.function, segment.autocast, inputs);
  }
};

/// Tensors without content that lie on the edges, so that a node can be made to lead there.
void add_ways(Tensors& ways, const std::vector<Edge>& edges) {
  for (const Edge& edge : edges) {
    ways.push_back(at::empty({0}));
    torch::autograd::impl::set_gradient_edge(ways.back(), edge);
  }
}

std::vector<Edge> captured_edges(const GraphBoundary& boundary, const Tensors& leaves) {
  std::vector<Edge> of_leaves;
  for (const at::Tensor& leaf : leaves) {
    if (needs_gradient(leaf)) of_leaves.push_back(gradient_edge(leaf));
  }
  std::vector<Edge> captured;
  for (const Edge& edge : boundary.edges()) {
    if (std::find(of_leaves.begin(), of_leaves.end(), edge) == of_leaves.end()) {
      captured.push_back(edge);
    }
  }
  return captured;
}

}  // namespace

namespace detail {

Tensors run_checkpoint(const TensorFunction& first, TensorFunction again, const Tensors& inputs,
                       const CheckpointOptions& options) {
  const auto segment = c10::make_intrusive<Segment>();
  segment->function = std::move(again);
  if (options.preserve_random_state()) segment->random = RandomState::current();
  const auto versions = versions_of(inputs);

  const Tensors leaves = make_leaves(inputs);
  const GraphMoment begin;
  Tensors outputs = run(first, segment->autocast, leaves);
  TORCH_CHECK(versions == versions_of(inputs),
              "checkpoint: the function changed an input in place; it could not run again with the "
              "same inputs");
  segment->expected = describe(outputs);
  segment->captured = captured_edges(GraphBoundary(outputs, begin), leaves);
  segment->inputs = inputs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].defined()) places.push_back(i);
  }
  for (const auto place : places) segment->outputs.push_back(outputs[place]);

  Tensors ways;
  for (const at::Tensor& input : inputs) {
    if (needs_gradient(input)) ways.push_back(input);
  }
  add_ways(ways, segment->captured);
  const Tensors results = Recompute::apply(segment, at::TensorList(ways));
  for (std::size_t i = 0; i < places.size(); ++i) outputs[places[i]] = results[i];
  return outputs;
}

}  // namespace detail
}  // namespace lockstep
