// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <c10/util/Exception.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>

#include <algorithm>
#include <utility>

#include "parallel/hooks/hook_state.h"

namespace lockstep::hooks {
namespace {

constexpr const char* kPostLocalSgd = "PostLocalSgd";
constexpr const char* kAverager = "PeriodicModelAverager";

using Tensors = std::vector<at::Tensor>;

/// Parameters with a gradient, one list a dtype and device, in the order in which these appear.
std::vector<Tensors> kinds_of(const Tensors& parameters) {
  std::vector<Tensors> kinds;
  for (const at::Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) continue;
    const auto is_alike = [&](const Tensors& kind) {
      return kind[0].scalar_type() == parameter.scalar_type() &&
             kind[0].device() == parameter.device();
    };
    auto kind = std::find_if(kinds.begin(), kinds.end(), is_alike);
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), Tensors());
    kind->push_back(parameter);
  }
  return kinds;
}

void average(ProcessGroup& group, const Tensors& tensors) {
  Tensors parts;
  for (const at::Tensor& tensor : tensors) parts.push_back(tensor.detach().flatten());
  const at::Tensor flat = at::cat(parts);
  group.all_reduce(flat, ReduceOp::Avg).wait();
  std::int64_t offset = 0;
  for (const at::Tensor& tensor : tensors) {
    tensor.copy_(flat.narrow(0, offset, tensor.numel()).view(tensor.sizes()));
    offset += tensor.numel();
  }
}

}  // namespace

struct PostLocalSgd::State {
  PostLocalSgdOptions options;
  std::uint64_t steps = 0;
};

PostLocalSgd::PostLocalSgd(const PostLocalSgdOptions& options)
    : state_(std::make_shared<State>(State{options, 0})) {}

Future<at::Tensor> PostLocalSgd::operator()(ProcessGroup& group,
                                            const GradientBucketView& bucket) const {
  const bool is_local = state_->steps >= state_->options.start_iteration();
  if (bucket.is_last()) ++state_->steps;
  if (!is_local) return all_reduce()(group, bucket);
  const auto& subgroup = state_->options.subgroup();
  return subgroup ? all_reduce()(*subgroup, bucket) : make_future(bucket.buffer());
}

std::uint64_t PostLocalSgd::steps() const noexcept {
  return state_->steps;
}

std::string PostLocalSgd::state() const {
  return counter_text(kPostLocalSgd, state_->steps);
}

void PostLocalSgd::load_state(const std::string& state) const {
  prepare_state(state)();
}

std::function<void()> PostLocalSgd::prepare_state(const std::string& state) const {
  return [own = state_, steps = counter_of(kPostLocalSgd, state)] { own->steps = steps; };
}

PeriodicModelAverager::PeriodicModelAverager(std::shared_ptr<ProcessGroup> group,
                                             std::int64_t period, std::int64_t warmup_steps)
    : group_(std::move(group)), period_(period), warmup_steps_(warmup_steps) {
  TORCH_CHECK(group_ != nullptr, "PeriodicModelAverager: group is null; give it a process group");
  TORCH_CHECK(period >= 1, "PeriodicModelAverager: period is ", period, "; allowed are 1 and more");
  TORCH_CHECK(warmup_steps >= 0, "PeriodicModelAverager: warmup_steps is ", warmup_steps,
              "; allowed are 0 and more");
}

bool PeriodicModelAverager::average_parameters(const Tensors& parameters) {
  const std::int64_t step = step_++;
  if (step < warmup_steps_ || (step - warmup_steps_) % period_ != 0) return false;
  const at::NoGradGuard no_grad;
  const auto kinds = kinds_of(parameters);
  TORCH_CHECK(!kinds.empty(), "average_parameters: none of ", parameters.size(),
              " parameters has a gradient; call it after the optimizer's step and before "
              "zero_grad");
  const auto scope = group_->with(CallOptions().name("average of parameters"));
  for (const Tensors& kind : kinds) average(*group_, kind);
  return true;
}

std::string PeriodicModelAverager::state() const {
  return counter_text(kAverager, static_cast<std::uint64_t>(step_));
}

void PeriodicModelAverager::load_state(const std::string& state) {
  prepare_state(state)();
}

std::function<void()> PeriodicModelAverager::prepare_state(const std::string& state) {
  const auto step = static_cast<std::int64_t>(counter_of(kAverager, state));
  return [this, step] { step_ = step; };
}

}  // namespace lockstep::hooks
