// SPDX-License-Identifier: BSD-3-Clause
#include "training/activation/graph_boundary.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/functions/tensor.h>
#include <torch/csrc/autograd/input_metadata.h>
#include <torch/csrc/autograd/variable.h>

#include <limits>
#include <unordered_map>
#include <unordered_set>

namespace lockstep {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;

/// A leaf that takes gradients of the same shape, dtype and device as `edge`. No memory beyond one
/// element.
Edge make_end(const Edge& edge) {
  const at::NoGradGuard no_grad;
  const auto& metadata = edge.function->input_metadata(edge.input_nr);
  const at::Tensor element = at::empty({}, metadata.options().requires_grad(false));
  const at::Tensor shaped = element.expand_symint(metadata.shape_as_dim_vector());
  return torch::autograd::impl::gradient_edge(shaped.detach().requires_grad_(true));
}

void set_edge(Node& node, std::size_t index, const Edge& edge) {
  node.next_edges()[index] = edge;
  // The node of a view that was changed in place keeps the one of the change inside, and insists
  // that the two lead to the same places; all but the first, which is the view itself there.
  auto* const slices = dynamic_cast<torch::autograd::CopySlices*>(&node);
  if (slices != nullptr && slices->fn && index > 0) slices->fn->next_edges()[index] = edge;
}

}  // namespace

GraphMoment::GraphMoment()
    : thread_(at::RecordFunction::currentThreadId()), sequence_(at::sequence_number::peek()) {}

bool GraphMoment::is_before(const Node& node) const {
  // Ends of graphs (gradient accumulators) have this number, so that they run as soon as they can.
  constexpr auto kEnd = std::numeric_limits<std::uint64_t>::max();
  const auto sequence = node.sequence_nr();
  return node.thread_id() == thread_ && sequence >= sequence_ && sequence != kEnd;
}

GraphBoundary::GraphBoundary(const std::vector<at::Tensor>& outputs, const GraphMoment& begin) {
  std::unordered_set<Node*> seen;
  std::vector<Node*> waiting;
  const auto visit = [&](Node* node) {
    if (seen.insert(node).second) waiting.push_back(node);
  };
  for (const at::Tensor& output : outputs) {
    if (output.defined() && output.requires_grad()) visit(output.grad_fn().get());
  }
  std::unordered_map<Edge, std::size_t> places;
  while (!waiting.empty()) {
    Node* const node = waiting.back();
    waiting.pop_back();
    for (std::size_t index = 0; index < node->next_edges().size(); ++index) {
      const Edge& edge = node->next_edges()[index];
      if (!edge.is_valid()) continue;
      if (begin.is_before(*edge.function)) {
        visit(edge.function.get());
        continue;
      }
      const auto [place, is_new] = places.try_emplace(edge, edges_.size());
      if (is_new) edges_.push_back(edge);
      crossings_.push_back({node, index, place->second});
    }
  }
}

Redirection::Redirection(const GraphBoundary& boundary, const std::vector<Edge>& edges)
    : boundary_(boundary) {
  std::unordered_map<Edge, std::size_t> places;
  for (const Edge& edge : edges) {
    places.try_emplace(edge, ends_.size());
    ends_.push_back(make_end(edge));
  }
  std::vector<std::size_t> ends_of_boundary;
  for (const Edge& edge : boundary.edges()) {
    const auto place = places.find(edge);
    TORCH_CHECK(place != places.end(),
                "checkpoint: when the function ran again in backward, it used a tensor with a "
                "gradient (reached by ",
                edge.function->name(),
                ") that it had not used before; it must do the same both times");
    ends_of_boundary.push_back(place->second);
  }
  for (const auto& crossing : boundary.crossings_) {
    set_edge(*crossing.node, crossing.index, ends_[ends_of_boundary[crossing.edge]]);
  }
}

Redirection::~Redirection() {
  for (const auto& crossing : boundary_.crossings_) {
    set_edge(*crossing.node, crossing.index, boundary_.edges_[crossing.edge]);
  }
}

}  // namespace lockstep
