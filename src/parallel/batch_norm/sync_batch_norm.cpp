// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <lockstep/parallel/sync_batch_norm.h>

#include <utility>

#include "parallel/batch_norm/batch_normalization.h"
#include "parallel/batch_norm/batch_statistics.h"

namespace lockstep::nn {
namespace {

bool needs_gradient(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad();
}

void check_values(std::int64_t values, const at::Tensor& input) {
  TORCH_CHECK(values != 1,
              "SyncBatchNorm: the statistics of a batch need more than 1 value a channel over all "
              "ranks; this rank's input is ",
              input.sizes());
}

void move_towards(const at::Tensor& running, const at::Tensor& value, double factor) {
  const auto dtype = accumulation_dtype(running.scalar_type());
  running.copy_(at::lerp(running.to(dtype), value.to(dtype), factor));
}

}  // namespace

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& its_options)
    : options(its_options) {
  TORCH_CHECK(options.num_features() > 0, "SyncBatchNorm: num_features is ", options.num_features(),
              "; it must be positive");
  SyncBatchNormImpl::reset();
}

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& its_options,
                                     std::shared_ptr<ProcessGroup> group)
    : SyncBatchNormImpl(its_options) {
  set_process_group(std::move(group));
}

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& its_options, State state,
                                     std::shared_ptr<ProcessGroup> group)
    : options(its_options) {
  const bool weight_requires_grad = needs_gradient(state.weight);
  const bool bias_requires_grad = needs_gradient(state.bias);
  register_state(std::move(state), weight_requires_grad, bias_requires_grad);
  set_process_group(std::move(group));
}

void SyncBatchNormImpl::register_state(State state, bool weight_requires_grad,
                                       bool bias_requires_grad) {
  weight = register_parameter("weight", std::move(state.weight), weight_requires_grad);
  bias = register_parameter("bias", std::move(state.bias), bias_requires_grad);
  running_mean = register_buffer("running_mean", std::move(state.running_mean));
  running_var = register_buffer("running_var", std::move(state.running_var));
  num_batches_tracked =
      register_buffer("num_batches_tracked", std::move(state.num_batches_tracked));
}

void SyncBatchNormImpl::reset() {
  State state;
  if (options.affine()) {
    state.weight = at::ones({options.num_features()});
    state.bias = at::zeros({options.num_features()});
  }
  if (options.track_running_stats()) {
    state.running_mean = at::zeros({options.num_features()});
    state.running_var = at::ones({options.num_features()});
    state.num_batches_tracked = at::zeros({}, at::kLong);
  }
  register_state(std::move(state), options.affine(), options.affine());
}

void SyncBatchNormImpl::reset_running_stats() {
  if (!options.track_running_stats()) return;
  running_mean.zero_();
  running_var.fill_(1);
  num_batches_tracked.zero_();
}

void SyncBatchNormImpl::reset_parameters() {
  reset_running_stats();
  if (!options.affine()) return;
  const at::NoGradGuard no_grad;
  weight.fill_(1);
  bias.zero_();
}

void SyncBatchNormImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << "lockstep::nn::SyncBatchNorm(" << options.num_features()
         << ", eps=" << options.eps() << ", momentum=";
  if (options.momentum().has_value()) {
    stream << *options.momentum();
  } else {
    stream << "None";
  }
  stream << ", affine=" << options.affine()
         << ", track_running_stats=" << options.track_running_stats() << ", ranks=";
  if (group_) {
    stream << group_->size() << ')';
  } else {
    stream << "None)";
  }
}

void SyncBatchNormImpl::set_process_group(std::shared_ptr<ProcessGroup> group) {
  TORCH_CHECK(group != nullptr, "SyncBatchNorm: the process group is null");
  group_ = std::move(group);
}

void SyncBatchNormImpl::check_input(const torch::Tensor& input) const {
  TORCH_CHECK(input.defined(), "SyncBatchNorm: the input is undefined");
  TORCH_CHECK(input.dim() >= 2 && input.dim() <= 5,
              "SyncBatchNorm: expected an input of 2 to 5 dimensions, (N, C) to (N, C, D, H, W), "
              "got ",
              input.sizes());
  TORCH_CHECK(input.size(1) == options.num_features(), "SyncBatchNorm: expected ",
              options.num_features(), " channels in dimension 1, got ", input.sizes());
}

torch::Tensor SyncBatchNormImpl::forward(const torch::Tensor& input) {
  check_input(input);
  // Like LibTorch's module, this one uses the batch also in evaluation where it has no running
  // statistics; but no rank waits for another then.
  if (!is_training()) return forward_locally(input, !options.track_running_stats());
  TORCH_CHECK(group_ != nullptr,
              "SyncBatchNorm: training needs a process group; give it to the constructor, to "
              "set_process_group, or the model to convert_sync_batchnorm");
  TORCH_CHECK(!group_->is_closed(), "SyncBatchNorm: the process group is closed");
  return group_->size() > 1 ? forward_over_ranks(input)
                            : forward_locally(input, /*use_batch=*/true);
}

double SyncBatchNormImpl::count_batch() {
  if (!options.track_running_stats()) return 0;
  num_batches_tracked += 1;
  return options.momentum() ? *options.momentum() : 1.0 / num_batches_tracked.item<double>();
}

torch::Tensor SyncBatchNormImpl::forward_locally(const torch::Tensor& input, bool use_batch) {
  if (use_batch) check_values(values_per_channel(input), input);
  const double factor = is_training() ? count_batch() : 0;
  return at::batch_norm(input, weight, bias, running_mean, running_var, use_batch, factor,
                        options.eps(), at::globalContext().userEnabledCuDNN());
}

torch::Tensor SyncBatchNormImpl::forward_over_ranks(const torch::Tensor& given) {
  // Its kernels take a 16-bit input with parameters in float, which is all that autocast is for.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const torch::Tensor input = given.contiguous(given.suggest_memory_format());
  BatchStatistics statistics;
  {
    const at::NoGradGuard no_grad;
    statistics = join_statistics(input, *group_);
    const at::Tensor total = statistics.counts.sum(at::kDouble);
    const auto own = values_per_channel(input);
    // Asking a device for the total means waiting for it: only a rank that does not know enough.
    const auto known = own > 1 ? own : total.item<std::int64_t>();
    check_values(known, input);
    const double factor = count_batch();
    if (known == 0) {
      // Nobody has a sample: all outputs are empty, and the running statistics stay.
      statistics.mean.zero_();
      statistics.variance.fill_(1);
    } else if (options.track_running_stats()) {
      move_towards(running_mean, statistics.mean, factor);
      move_towards(running_var, statistics.variance * (total / (total - 1)), factor);
    }
  }
  return normalize_over_ranks(input, weight, bias, statistics, options.eps(), group_);
}

}  // namespace lockstep::nn
