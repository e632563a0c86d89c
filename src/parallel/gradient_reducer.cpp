// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/gradient_reducer.h"

#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>

#include <utility>

#include "parallel/reducer_state.h"

namespace lockstep {

GradientReducer::GradientReducer(std::shared_ptr<ProcessGroup> group, NamedTensors parameters,
                                 NamedTensors buffers,
                                 const DistributedDataParallelOptions& options,
                                 std::shared_ptr<const std::atomic<int>> pauses,
                                 DistributedDataParallelStatistics so_far) {
  for (const auto& [name, tensor] : parameters) parameters_.push_back(tensor);
  state_ =
      std::make_shared<ReducerState>(std::move(group), std::move(parameters), std::move(buffers),
                                     options, std::move(pauses), std::move(so_far));
  hook_parameters();
}

GradientReducer::~GradientReducer() {
  drop_hooks();
}

void GradientReducer::hook_parameters() {
  // A node belongs to the stream on which it was made; while somebody holds it, it is not made
  // anew.
  drop_hooks();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    // The tensor itself refers to this node weakly: whoever hooks it must keep it.
    auto node = torch::autograd::impl::grad_accumulator(parameters_[i]);
    const auto key = node->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
        [weak = std::weak_ptr(state_), i](const torch::autograd::variable_list& outputs,
                                          const torch::autograd::variable_list& inputs) {
          if (const auto state = weak.lock()) {
            state->on_gradient(i, inputs.empty() ? at::Tensor() : inputs.front());
          }
          return outputs;
        }));
    hooks_.emplace_back(std::move(node), key);
  }
}

void GradientReducer::drop_hooks() {
  for (auto& [node, key] : hooks_) node->del_post_hook(key);
  hooks_.clear();
}

void GradientReducer::watch(const at::Tensor& output) {
  // A leaf has hooks of its own, and would keep this one for ever.
  if (!output.defined() || output.is_leaf() || !at::GradMode::is_enabled()) return;
  output.register_hook([weak = std::weak_ptr(state_)](const at::Tensor&) {
    // autograd::grad wants gradients for the program, not for the parameters: nothing to average.
    const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
    if (wanted != nullptr && !wanted->empty()) return;
    if (const auto state = weak.lock()) state->begin();
  });
}

void GradientReducer::note_forward(std::int64_t samples) {
  state_->note_forward(samples);
}

void GradientReducer::set_samples(std::int64_t samples) {
  state_->set_samples(samples);
}

void GradientReducer::set_hook(CommunicationHook hook) {
  state_->set_hook(std::move(hook));
}

bool GradientReducer::shadow() {
  return state_->shadow();
}

int GradientReducer::first_active_rank() const {
  return state_->first_active_rank();
}

bool GradientReducer::take_had_shadows() {
  return state_->take_had_shadows();
}

std::vector<std::size_t> GradientReducer::bucket_bytes() const {
  return state_->bucket_bytes();
}

std::uint64_t GradientReducer::steps() const {
  return state_->steps();
}

DistributedDataParallelStatistics GradientReducer::statistics() const {
  return state_->statistics();
}

}  // namespace lockstep
