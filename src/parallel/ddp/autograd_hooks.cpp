// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/autograd_hooks.h"

#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <utility>

namespace lockstep {

AutogradHooks::AutogradHooks(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                             std::function<NamedTensors()> buffers,
                             const DistributedDataParallelOptions& options,
                             std::shared_ptr<const std::atomic<int>> pauses,
                             DistributedDataParallelStatistics so_far)
    : parameters_(parameters) {
  std::vector<bool> needed;
  for (const auto& [name, tensor] : parameters) {
    index_of_.emplace(tensor.unsafeGetTensorImpl(), hooked_.size());
    hooked_.push_back({tensor, TensorForm(tensor), nullptr, nullptr});
    needed.push_back(tensor.requires_grad());
  }
  reducer_ =
      std::make_shared<Reducer>(std::move(group), parameters, std::move(needed), std::move(buffers),
                                options, std::move(pauses), std::move(so_far));
  hook_parameters();
}

AutogradHooks::~AutogradHooks() {
  drop_hooks();
}

bool AutogradHooks::covers(const NamedTensors& parameters) const {
  return std::all_of(parameters.begin(), parameters.end(),
                     [&](const auto& named) { return knows(named.second); }) &&
         std::all_of(hooked_.begin(), hooked_.end(),
                     [](const Hooked& hooked) { return hooked.form.is_of(hooked.parameter); });
}

bool AutogradHooks::knows(const at::Tensor& parameter) const {
  return index_of_.contains(parameter.unsafeGetTensorImpl());
}

bool AutogradHooks::has_lost_hooks() const {
  return std::any_of(hooked_.begin(), hooked_.end(), [](const Hooked& hooked) {
    return hooked.parameter.requires_grad() && !hooked.is_hooked();
  });
}

void AutogradHooks::follow_needs() {
  std::vector<bool> needed;
  for (std::size_t i = 0; i < hooked_.size(); ++i) {
    const at::Tensor& parameter = hooked_[i].parameter;
    needed.push_back(parameter.requires_grad());
    if (needed.back() && !hooked_[i].is_hooked()) hook(i);
  }
  // Without any of them there are no buckets to build; the same ones may need gradients later.
  const bool is_idle = std::find(needed.begin(), needed.end(), true) == needed.end();
  if (!is_idle) reducer_->set_needed(std::move(needed));
}

bool AutogradHooks::Hooked::is_hooked() const {
  return node && torch::autograd::impl::try_get_grad_accumulator(parameter) == node;
}

void AutogradHooks::hook_parameters() {
  // A node belongs to the stream on which it was made; while somebody holds it, it is not made
  // anew.
  drop_hooks();
  for (std::size_t i = 0; i < hooked_.size(); ++i) {
    if (hooked_[i].parameter.requires_grad()) hook(i);
  }
}

void AutogradHooks::hook(std::size_t index) {
  Hooked& hooked = hooked_[index];
  unhook(index);
  // The tensor itself refers to this node weakly: whoever hooks it must keep it.
  hooked.node = torch::autograd::impl::grad_accumulator(hooked.parameter);
  hooked.listeners = ParameterListeners::of(*hooked.node);
  hooked.listeners->add(reducer_, index);
  reducer_->set_listeners(index, hooked.listeners);
}

void AutogradHooks::unhook(std::size_t index) {
  Hooked& hooked = hooked_[index];
  if (hooked.node) hooked.listeners->remove(reducer_, *hooked.node);
  hooked.node = nullptr;
}

void AutogradHooks::drop_hooks() {
  for (std::size_t i = 0; i < hooked_.size(); ++i) unhook(i);
}

void AutogradHooks::watch(const at::Tensor& output) {
  if (!output.defined() || !at::GradMode::is_enabled()) return;
  reducer_->show(output);
  // A leaf has hooks of its own, and would keep this one for ever.
  if (output.is_leaf()) return;
  output.register_hook(
      [weak = std::weak_ptr(reducer_), watched = reducer_->watch(output)](const at::Tensor&) {
        // autograd::grad wants gradients for the program, not for the parameters: nothing to
        // average.
        const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
        const bool is_for_parameters = wanted == nullptr || wanted->empty();
        if (const auto reducer = weak.lock()) reducer->reach(*watched, is_for_parameters);
      });
}

}  // namespace lockstep
