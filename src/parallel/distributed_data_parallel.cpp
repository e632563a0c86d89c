// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/parallel/distributed_data_parallel.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "native/posix/heap.h"
#include "parallel/ddp_checks.h"
#include "parallel/gradient_reducer.h"
#include "parallel/module_state.h"

namespace lockstep {
namespace {

using Names = std::vector<std::string>;

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <typename Items>
NamedTensors to_list(const Items& items, const Names& ignored) {
  NamedTensors list;
  for (const auto& item : items) {
    if (!contains(ignored, item.key())) list.emplace_back(item.key(), item.value());
  }
  return list;
}

/// Parameters, then buffers.
NamedTensors state_of(const torch::nn::Module& module, const Names& ignored) {
  NamedTensors state = to_list(module.named_parameters(), ignored);
  for (auto& buffer : to_list(module.named_buffers(), ignored)) state.push_back(std::move(buffer));
  return state;
}

NamedTensors with_gradient(const NamedTensors& parameters) {
  NamedTensors list;
  std::set<const c10::TensorImpl*> seen;  // a parameter that two submodules share has one gradient
  for (const auto& [name, tensor] : parameters) {
    if (!tensor.requires_grad() || tensor.numel() == 0) continue;
    if (seen.insert(tensor.unsafeGetTensorImpl()).second) list.emplace_back(name, tensor);
  }
  return list;
}

}  // namespace

DistributedDataParallelBase::DistributedDataParallelBase(
    std::shared_ptr<torch::nn::Module> module, std::shared_ptr<ProcessGroup> group,
    const DistributedDataParallelOptions& options)
    : torch::nn::Module("DistributedDataParallel"),
      module_(std::move(module)),
      group_(std::move(group)),
      options_(options) {
  check_arguments(module_.get(), group_.get(), options_);
  register_module("module", module_);
  compare_and_hook();
  if (group_->size() == 1 || !options_.broadcast_at_start()) return;
  broadcast_tensors(*group_, state_of(*module_, options_.ignored_names()), 0);
}

DistributedDataParallelBase::~DistributedDataParallelBase() = default;

void DistributedDataParallelBase::compare_and_hook() {
  const Names& ignored = options_.ignored_names();
  auto hooked = with_gradient(to_list(module_->named_parameters(), ignored));
  check_parameters(hooked);
  {
    const auto scope = group_->with(CallOptions().name("parameters of the model"));
    check_same_on_all_ranks(*group_, describe(options_), state_of(*module_, ignored));
  }
  hooked_.clear();
  for (const auto& [name, tensor] : hooked) hooked_.push_back(tensor);
  if (group_->size() == 1) return;  // gradients are their own average
  if (options_.retain_freed_memory()) native::retain_freed_memory();
  if (reducer_) so_far_ = reducer_->statistics();
  reducer_.reset();  // before its successor takes memory
  reducer_ = std::make_unique<GradientReducer>(group_, std::move(hooked),
                                               to_list(module_->named_buffers(), ignored), options_,
                                               pauses_, so_far_);
  reducer_->set_hook(hook_);
}

bool DistributedDataParallelBase::has_other_parameters() const {
  const auto now = with_gradient(to_list(module_->named_parameters(), options_.ignored_names()));
  return !std::equal(now.begin(), now.end(), hooked_.begin(), hooked_.end(),
                     [](const auto& a, const torch::Tensor& b) { return a.second.is_same(b); });
}

void DistributedDataParallelBase::begin_forward(std::int64_t samples) {
  forward_begin_ = Clock::now();
  if (group_->size() == 1 || !at::GradMode::is_enabled()) return;
  // No reducer: the last attempt to make one failed.
  if (!reducer_ || has_other_parameters()) compare_and_hook();
  reducer_->note_forward(samples);
}

void DistributedDataParallelBase::end_forward() {
  const auto time = Clock::now() - forward_begin_;
  const std::uint64_t step = reducer_ ? reducer_->steps() : 0;
  if (step != forward_step_) forward_ = {};
  forward_step_ = step;
  forward_ += time;
  forward_total_ += time;
}

std::vector<torch::Tensor> DistributedDataParallelBase::parameters(bool recurse) const {
  return module_->parameters(recurse);
}

torch::OrderedDict<std::string, torch::Tensor> DistributedDataParallelBase::named_parameters(
    bool recurse) const {
  return module_->named_parameters(recurse);
}

std::vector<torch::Tensor> DistributedDataParallelBase::buffers(bool recurse) const {
  return module_->buffers(recurse);
}

torch::OrderedDict<std::string, torch::Tensor> DistributedDataParallelBase::named_buffers(
    bool recurse) const {
  return module_->named_buffers(recurse);
}

void DistributedDataParallelBase::zero_grad(bool set_to_none) {
  module_->zero_grad(set_to_none);
}

void DistributedDataParallelBase::save(torch::serialize::OutputArchive& archive) const {
  module_->save(archive);
}

void DistributedDataParallelBase::load(torch::serialize::InputArchive& archive) {
  module_->load(archive);
}

void DistributedDataParallelBase::join(const std::function<void()>& step) {
  TORCH_CHECK(!options_.static_graph(),
              "join: this model was wrapped with static_graph, so that ranks do not say whether "
              "they have data; leave that option out");
  if (!reducer_) return;
  while (reducer_->shadow()) {
    if (step) step();
  }
  // All ranks made the same cycles, so that they agree on this.
  if (!reducer_->take_had_shadows() || step) return;
  broadcast_tensors(*group_, state_of(*module_, options_.ignored_names()),
                    reducer_->first_active_rank());
}

void DistributedDataParallelBase::set_samples(std::int64_t samples) {
  TORCH_CHECK(samples > 0, "set_samples: ", samples, " samples; a rank without any calls join");
  if (reducer_) reducer_->set_samples(samples);
}

void DistributedDataParallelBase::register_communication_hook(CommunicationHook hook) {
  hook_ = std::move(hook);
  if (reducer_) reducer_->set_hook(hook_);
}

void DistributedDataParallelBase::broadcast_buffers(int root) {
  broadcast_tensors(*group_, to_list(module_->named_buffers(), options_.ignored_names()), root);
}

void DistributedDataParallelBase::average_buffers() {
  average_tensors(*group_, to_list(module_->named_buffers(), options_.ignored_names()), true, 0);
}

void DistributedDataParallelBase::rebind() {
  if (reducer_) reducer_->hook_parameters();
}

DistributedDataParallelStatistics DistributedDataParallelBase::statistics() const {
  DistributedDataParallelStatistics result = reducer_ ? reducer_->statistics() : so_far_;
  result.last.forward = forward_;
  result.total.forward = forward_total_;
  return result;
}

std::vector<std::size_t> DistributedDataParallelBase::bucket_bytes() const {
  return reducer_ ? reducer_->bucket_bytes() : std::vector<std::size_t>();
}

void DistributedDataParallelBase::watch(const torch::Tensor& output) {
  if (reducer_) reducer_->watch(output);
}

}  // namespace lockstep
