// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/graph_split.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep::pipeline {

using torch::autograd::Edge;
using torch::autograd::Engine;
using torch::autograd::FunctionPreHook;
using torch::autograd::Node;
using torch::autograd::variable_list;

namespace {

using NodeSet = std::unordered_set<Node*>;

/// What of it is worth a second run: its work for the weight is as much as that for the input.
bool is_heavy(const Node& node) {
  static constexpr std::array<std::string_view, 7> kNames{
      "AddmmBackward", "MmBackward",     "BmmBackward",         "BaddbmmBackward",
      "MvBackward",    "LinearBackward", "ConvolutionBackward",
  };
  const std::string name = node.name();
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](std::string_view heavy) { return name.starts_with(heavy); });
}

/// All nodes below `roots`, and who leads to each.
struct ReverseGraph {
  explicit ReverseGraph(const std::vector<Edge>& roots) {
    std::vector<Node*> waiting;
    const auto visit = [&](const Edge& edge) {
      if (owners.try_emplace(edge.function.get(), edge.function).second) {
        waiting.push_back(edge.function.get());
      }
    };
    for (const Edge& root : roots) visit(root);
    while (!waiting.empty()) {
      Node* const node = waiting.back();
      waiting.pop_back();
      for (const Edge& next : node->next_edges()) {
        if (!next.is_valid()) continue;
        visit(next);
        parents[next.function.get()].push_back(node);
      }
    }
  }

  /// All nodes from which one of these can be reached, these included.
  [[nodiscard]] NodeSet above(const std::vector<Edge>& ends) const {
    NodeSet found;
    std::vector<Node*> waiting;
    const auto visit = [&](Node* node) {
      if (found.insert(node).second) waiting.push_back(node);
    };
    for (const Edge& end : ends) visit(end.function.get());
    while (!waiting.empty()) {
      Node* const node = waiting.back();
      waiting.pop_back();
      const auto found_parents = parents.find(node);
      if (found_parents == parents.end()) continue;
      for (Node* parent : found_parents->second) visit(parent);
    }
    return found;
  }

  std::unordered_map<Node*, decltype(Edge::function)> owners;
  std::unordered_map<Node*, std::vector<Node*>> parents;
};

/// Whether one of `nodes` can be reached from another one of them.
bool lead_to_one_another(const NodeSet& nodes) {
  for (Node* begin : nodes) {
    NodeSet seen{begin};
    std::vector<Node*> waiting{begin};
    while (!waiting.empty()) {
      Node* const node = waiting.back();
      waiting.pop_back();
      for (const Edge& next : node->next_edges()) {
        if (!next.is_valid() || !seen.insert(next.function.get()).second) continue;
        if (nodes.contains(next.function.get())) return true;
        waiting.push_back(next.function.get());
      }
    }
  }
  return false;
}

/// Keeps what comes to a node, before other hooks of it: they see it again in the second run.
class KeepGradients final : public FunctionPreHook {
 public:
  explicit KeepGradients(std::shared_ptr<std::vector<at::Tensor>> kept) : kept_(std::move(kept)) {}
  variable_list operator()(const variable_list& gradients) override {
    *kept_ = gradients;
    return gradients;
  }

 private:
  std::shared_ptr<std::vector<at::Tensor>> kept_;
};

/// While it lives, the node's gradients are kept.
class KeepingHook {
 public:
  KeepingHook(Node& node, std::shared_ptr<std::vector<at::Tensor>> kept) : node_(&node) {
    auto hook = std::make_unique<KeepGradients>(std::move(kept));
    hook_ = hook.get();
    auto& hooks = node.tensor_pre_hooks();
    hooks.insert(hooks.begin(), std::move(hook));
  }
  ~KeepingHook() {
    if (node_ == nullptr) return;
    std::erase_if(node_->tensor_pre_hooks(),
                  [this](const auto& hook) { return hook.get() == hook_; });
  }
  KeepingHook(KeepingHook&& other) noexcept
      : node_(std::exchange(other.node_, nullptr)), hook_(other.hook_) {}
  KeepingHook& operator=(KeepingHook&&) = delete;

 private:
  Node* node_;
  const FunctionPreHook* hook_ = nullptr;
};

}  // namespace

std::optional<GraphSplit> GraphSplit::of(const Edges& roots, const Edges& inputs) {
  const ReverseGraph graph(roots);
  const NodeSet on_paths = graph.above(inputs);
  const bool are_roots_on_paths = std::all_of(roots.begin(), roots.end(), [&](const Edge& root) {
    return on_paths.contains(root.function.get());
  });
  if (!are_roots_on_paths) return std::nullopt;
  NodeSet ends;
  for (const Edge& input : inputs) ends.insert(input.function.get());
  GraphSplit split;
  NodeSet left_to;                                 // where edges leave the paths to
  std::unordered_map<Node*, int> leaving_parents;  // how many nodes of the paths lead there
  for (const auto& [node, owner] : graph.owners) {
    if (!on_paths.contains(node) || ends.contains(node)) continue;
    split.paths_.push_back(owner);
    NodeSet own;
    for (const Edge& next : node->next_edges()) {
      if (next.is_valid() && !on_paths.contains(next.function.get())) {
        own.insert(next.function.get());
      }
    }
    for (Node* next : own) ++leaving_parents[next];
    left_to.insert(own.begin(), own.end());
  }
  if (lead_to_one_another(left_to)) return std::nullopt;

  // In the order of a backward, which is the one in which sums are added up there.
  std::sort(split.paths_.begin(), split.paths_.end(), [](const auto& one, const auto& other) {
    return one->sequence_nr() > other->sequence_nr();
  });
  std::unordered_set<Edge> seen;
  for (const NodePtr& node : split.paths_) {
    Heavy heavy{node, {}, std::make_shared<Tensors>()};
    for (const Edge& next : node->next_edges()) {
      if (!next.is_valid() || !left_to.contains(next.function.get())) continue;
      // What several nodes lead to is added up in one go.
      const bool is_own = leaving_parents[next.function.get()] == 1 && is_heavy(*node);
      if (seen.insert(next).second) (is_own ? heavy.leaving : split.leaving_).push_back(next);
    }
    if (!heavy.leaving.empty()) split.heavy_.push_back(std::move(heavy));
  }
  return split;
}

GraphSplit::Tensors GraphSplit::run_inputs(const Edges& roots, const Tensors& gradients,
                                           const Edges& inputs) {
  Edges outputs = inputs;
  outputs.insert(outputs.end(), leaving_.begin(), leaving_.end());
  Tensors results;
  {
    std::vector<KeepingHook> hooks;
    for (const Heavy& heavy : heavy_) hooks.emplace_back(*heavy.node, heavy.gradients);
    results = Engine::get_default_engine().execute(roots, gradients, /*keep_graph=*/true,
                                                   /*create_graph=*/false,
                                                   /*accumulate_grad=*/false, outputs);
  }
  NodeSet again;
  for (const Heavy& heavy : heavy_) again.insert(heavy.node.get());
  for (const NodePtr& node : paths_) {
    if (!again.contains(node.get())) node->release_variables();
  }
  paths_.clear();
  const auto begin_of_rest = results.begin() + static_cast<std::ptrdiff_t>(inputs.size());
  gradients_.assign(begin_of_rest, results.end());
  results.resize(inputs.size());
  return results;
}

void GraphSplit::run_weights() {
  Edges roots;
  Tensors gradients;
  const auto add = [&](const Edges& edges, const Tensors& came) {
    for (std::size_t i = 0; i < edges.size(); ++i) {
      if (!came[i].defined()) continue;
      roots.push_back(edges[i]);
      gradients.push_back(came[i]);
    }
  };
  for (Heavy& heavy : heavy_) {
    Edges begin;
    Tensors came;
    for (std::size_t i = 0; i < heavy.gradients->size(); ++i) {
      if (!(*heavy.gradients)[i].defined()) continue;
      begin.emplace_back(heavy.node, static_cast<std::uint32_t>(i));
      came.push_back(std::move((*heavy.gradients)[i]));
    }
    if (begin.empty()) continue;
    add(heavy.leaving, Engine::get_default_engine().execute(
                           begin, came, /*keep_graph=*/false, /*create_graph=*/false,
                           /*accumulate_grad=*/false, heavy.leaving));
  }
  add(leaving_, gradients_);
  heavy_.clear();
  gradients_.clear();
  if (roots.empty()) return;
  Engine::get_default_engine().execute(roots, gradients, /*keep_graph=*/false,
                                       /*create_graph=*/false, /*accumulate_grad=*/true, {});
}

}  // namespace lockstep::pipeline
