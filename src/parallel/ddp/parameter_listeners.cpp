// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/parameter_listeners.h"

#include <torch/csrc/autograd/function_hook.h>

#include <algorithm>

namespace lockstep {
namespace {

class ListenersHook final : public torch::autograd::FunctionPostHook {
 public:
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list& inputs) override {
    const auto listeners = listeners_;  // one of them may be destroyed meanwhile
    listeners->on_gradient(inputs.empty() ? at::Tensor() : inputs.front());
    return outputs;
  }
  [[nodiscard]] const std::shared_ptr<ParameterListeners>& listeners() const noexcept {
    return listeners_;
  }

 private:
  std::shared_ptr<ParameterListeners> listeners_ = std::make_shared<ParameterListeners>();
};

ListenersHook* find_hook(const torch::autograd::Node& node) {
  for (const auto& hook : node.post_hooks()) {
    if (auto* const found = dynamic_cast<ListenersHook*>(hook.get())) return found;
  }
  return nullptr;
}

}  // namespace

std::shared_ptr<ParameterListeners> ParameterListeners::of(torch::autograd::Node& node) {
  if (const auto* const known = find_hook(node)) return known->listeners();
  auto hook = std::make_unique<ListenersHook>();
  auto listeners = hook->listeners();
  node.add_post_hook(std::move(hook));
  return listeners;
}

void ParameterListeners::add(const std::shared_ptr<GradientListener>& reducer, std::size_t index) {
  listeners_.push_back({reducer, index});
}

void ParameterListeners::remove(const std::shared_ptr<GradientListener>& reducer,
                                torch::autograd::Node& node) {
  std::erase_if(listeners_, [&](const Listener& listener) {
    return listener.reducer.expired() || listener.reducer.lock() == reducer;
  });
  auto* const hook = find_hook(node);
  if (listeners_.empty() && hook != nullptr) {
    node.del_post_hook(
        reinterpret_cast<std::uintptr_t>(static_cast<torch::autograd::FunctionPostHook*>(hook)));
  }
}

void ParameterListeners::on_gradient(const at::Tensor& incoming) {
  if (!are_several()) {
    if (listeners_.empty()) return;
    const Listener only = listeners_.front();
    if (const auto reducer = only.reducer.lock()) reducer->on_gradient(only.index, incoming);
    return;
  }
  struct Candidate {
    std::shared_ptr<GradientListener> reducer;
    std::size_t index;
    GradientListener::Claim claim;
  };
  std::vector<Candidate> candidates;
  for (const Listener& listener : listeners_) {
    if (auto reducer = listener.reducer.lock()) {
      const auto claim = reducer->claim();
      candidates.push_back({std::move(reducer), listener.index, claim});
    }
  }
  const auto owner = std::max_element(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return a.claim.is_weaker_than(b.claim); });
  if (owner == candidates.end()) return;
  owner->reducer->on_gradient(owner->index, incoming);
  for (auto other = candidates.begin(); other != candidates.end(); ++other) {
    if (other != owner) other->reducer->on_gradient_of_another(other->index);
  }
}

void ParameterListeners::note_written(const GradientListener& by,
                                      const std::weak_ptr<bool>& backward) {
  if (!are_several()) return;
  std::erase_if(written_, [](const Written& given) { return given.backward.expired(); });
  written_.push_back({&by, backward});
}

bool ParameterListeners::is_written_by_another(const GradientListener& than) const {
  return std::any_of(written_.begin(), written_.end(), [&](const Written& given) {
    return given.by != &than && !given.backward.expired();
  });
}

}  // namespace lockstep
