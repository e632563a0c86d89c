// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/parallel/distributed_data_parallel.h>

#include <set>
#include <string>
#include <utility>

#include "comm/reduce_kernels.h"
#include "native/posix/heap.h"
#include "parallel/gradient_reducer.h"
#include "parallel/module_state.h"

namespace lockstep {
namespace {

template <typename Items>
NamedTensors to_list(const Items& items) {
  NamedTensors list;
  for (const auto& item : items) list.emplace_back(item.key(), item.value());
  return list;
}

NamedTensors with_gradient(const torch::nn::Module& module) {
  NamedTensors list;
  std::set<const c10::TensorImpl*> seen;  // a parameter that two submodules share has one gradient
  for (const auto& item : module.named_parameters()) {
    const torch::Tensor& parameter = item.value();
    if (!parameter.requires_grad() || parameter.numel() == 0) continue;
    if (seen.insert(parameter.unsafeGetTensorImpl()).second)
      list.emplace_back(item.key(), parameter);
  }
  return list;
}

void check(const torch::nn::Module* module, const ProcessGroup* group,
           const DistributedDataParallelOptions& options) {
  TORCH_CHECK(module != nullptr, "DistributedDataParallel: the module is empty");
  TORCH_CHECK(group != nullptr, "DistributedDataParallel: the process group is null");
  TORCH_CHECK(options.bucket_cap_bytes() > 0,
              "DistributedDataParallel: bucket_cap_bytes is 0; it must be positive");
  const NamedTensors parameters = with_gradient(*module);
  TORCH_CHECK(!parameters.empty(),
              "DistributedDataParallel: the module has no parameter that needs a gradient");
  for (const auto& [name, parameter] : parameters) {
    const at::ScalarType dtype = parameter.scalar_type();
    const bool is_real = at::isFloatingType(dtype) && !c10::isFloat8Type(dtype);
    TORCH_CHECK(is_real && can_reduce(dtype, ReduceOp::Avg), "DistributedDataParallel: parameter '",
                name, "' has dtype ", parameter.scalar_type(),
                "; gradients of Float, Double, Half and ", "BFloat16 parameters can be averaged");
  }
}

std::string describe(const DistributedDataParallelOptions& options) {
  return "options bucket_cap_bytes=" + std::to_string(options.bucket_cap_bytes()) +
         " first_bucket_cap_bytes=" + std::to_string(options.first_bucket_cap_bytes()) +
         " broadcast_at_start=" + (options.broadcast_at_start() ? "true" : "false");
}

}  // namespace

DistributedDataParallelBase::DistributedDataParallelBase(
    std::shared_ptr<torch::nn::Module> module, std::shared_ptr<ProcessGroup> group,
    const DistributedDataParallelOptions& options)
    : torch::nn::Module("DistributedDataParallel"),
      module_(std::move(module)),
      group_(std::move(group)) {
  check(module_.get(), group_.get(), options);
  register_module("module", module_);
  NamedTensors state = to_list(module_->named_parameters());
  for (auto& buffer : to_list(module_->named_buffers())) state.push_back(std::move(buffer));
  check_same_on_all_ranks(*group_, describe(options), state);
  if (group_->size() == 1) return;  // gradients are their own average
  if (options.broadcast_at_start()) broadcast_tensors(*group_, state, 0);
  if (options.retain_freed_memory()) native::retain_freed_memory();
  reducer_ = std::make_unique<GradientReducer>(group_, with_gradient(*module_), options);
}

DistributedDataParallelBase::~DistributedDataParallelBase() = default;

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

void DistributedDataParallelBase::broadcast_buffers(int root) {
  broadcast_tensors(*group_, to_list(module_->named_buffers()), root);
}

std::vector<std::size_t> DistributedDataParallelBase::bucket_bytes() const {
  return reducer_ ? reducer_->bucket_bytes() : std::vector<std::size_t>();
}

void DistributedDataParallelBase::watch(const torch::Tensor& output) {
  if (reducer_) reducer_->watch(output);
}

void DistributedDataParallelBase::watch(const std::vector<torch::Tensor>& outputs) {
  for (const auto& output : outputs) watch(output);
}

}  // namespace lockstep
