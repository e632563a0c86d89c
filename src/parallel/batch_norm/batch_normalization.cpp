// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/batch_norm/batch_normalization.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm_backward_elemt.h>
#include <ATen/ops/batch_norm_backward_reduce.h>
#include <ATen/ops/batch_norm_elemt.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <optional>
#include <utility>

#include "parallel/batch_norm/channel_kernels.h"

namespace lockstep {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Settings : torch::CustomClassHolder {
  Settings(std::shared_ptr<ProcessGroup> its_group, double its_eps)
      : group(std::move(its_group)), eps(its_eps) {}
  std::shared_ptr<ProcessGroup> group;
  double eps;
};

std::optional<at::Tensor> as(at::ScalarType dtype, const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor.to(dtype)) : std::nullopt;
}

/// What one backward works on.
struct Saved {
  at::Tensor input, weight, mean, variance, counts;
  double eps;

  [[nodiscard]] at::Tensor inverse_deviation() const { return (variance + eps).rsqrt(); }
};

at::Tensor normalize(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                     const BatchStatistics& statistics, double eps) {
  const auto dtype = statistics.mean.scalar_type();
  if (input.is_cpu()) {
    // Evaluation: one pass that scales and shifts.
    return std::get<0>(at::native_batch_norm(input, as(dtype, weight), as(dtype, bias),
                                             statistics.mean, statistics.variance,
                                             /*training=*/false, /*momentum=*/0.0, eps));
  }
  return at::batch_norm_elemt(input, as(dtype, weight), as(dtype, bias), statistics.mean,
                              (statistics.variance + eps).rsqrt(), eps);
}

/// Over this rank's values, for each channel.
struct GradientSums {
  at::Tensor of_gradients;
  at::Tensor of_products;  // of gradients and deviations from the mean
};

GradientSums sum_gradients(const at::Tensor& gradient, const Saved& saved) {
  if (gradient.numel() == 0) return {at::zeros_like(saved.mean), at::zeros_like(saved.mean)};
  if (gradient.is_cpu()) {
    // Evaluation's gradients of weight and bias are these two sums, taken in one pass.
    const auto [unused, weight, bias] = at::native_batch_norm_backward(
        gradient, saved.input, std::nullopt, saved.mean, saved.variance, std::nullopt, std::nullopt,
        /*train=*/false, saved.eps, {false, true, true});
    return {bias, weight / saved.inverse_deviation()};
  }
  const auto [sums, products, unused_weight, unused_bias] = at::batch_norm_backward_reduce(
      gradient, saved.input, saved.mean, saved.inverse_deviation(), std::nullopt, /*input_g=*/true,
      /*weight_g=*/false, /*bias_g=*/false);
  return {sums, products};
}

GradientSums add_over_ranks(const GradientSums& own, ProcessGroup& group) {
  const at::Tensor both = at::cat({own.of_gradients, own.of_products});
  const auto scope = group.with(CallOptions().name("SyncBatchNorm backward"));
  group.all_reduce(both).wait();
  const auto halves = both.chunk(2);
  return {halves[0], halves[1]};
}

// scale * (gradient - mean gradient) + slope * (input - mean), with what is constant in one term.
at::Tensor input_gradient_on_cpu(const at::Tensor& gradient, const Saved& saved,
                                 const GradientSums& sums) {
  const auto dtype = saved.mean.scalar_type();
  const at::Tensor total = saved.counts.sum();
  const at::Tensor inverse = (saved.variance.to(at::kDouble) + saved.eps).rsqrt();
  const at::Tensor scale = saved.weight.defined() ? inverse * saved.weight : inverse;
  const at::Tensor slope = -scale * inverse.square() * sums.of_products / total;
  const at::Tensor shift = -scale * sums.of_gradients / total - slope * saved.mean;
  return combine_channels(gradient, saved.input,
                          {scale.to(dtype), slope.to(dtype), shift.to(dtype)});
}

at::Tensor input_gradient(const at::Tensor& gradient, const Saved& saved,
                          const GradientSums& sums) {
  if (gradient.numel() == 0) return at::zeros_like(saved.input);
  if (gradient.is_cpu()) return input_gradient_on_cpu(gradient, saved, sums);
  return at::batch_norm_backward_elemt(gradient, saved.input, saved.mean, saved.inverse_deviation(),
                                       as(saved.mean.scalar_type(), saved.weight),
                                       sums.of_gradients, sums.of_products, saved.counts);
}

/// The identity, but it refuses to be differentiated.
struct NotDifferentiable : torch::autograd::Function<NotDifferentiable> {
  static at::Tensor forward(AutogradContext* /*context*/, const at::Tensor& gradient) {
    return gradient.clone();
  }
  static variable_list backward(AutogradContext* /*context*/, const variable_list& /*gradients*/) {
    TORCH_CHECK(false,
                "SyncBatchNorm cannot be differentiated twice: its gradient comes from a "
                "collective, which has no derivative");
  }
};

at::Tensor once(const at::Tensor& gradient) {
  if (!gradient.defined() || !at::GradMode::is_enabled()) return gradient;
  return NotDifferentiable::apply(gradient.detach().requires_grad_(true));
}

struct NormalizeOverRanks : torch::autograd::Function<NormalizeOverRanks> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias,
                            const BatchStatistics& statistics,
                            const c10::intrusive_ptr<Settings>& settings) {
    context->save_for_backward({input, weight.value_or(at::Tensor()), statistics.mean,
                                statistics.variance, statistics.counts});
    context->saved_data["settings"] = c10::IValue::make_capsule(settings);
    context->saved_data["bias dtype"] = bias ? bias->scalar_type() : at::ScalarType::Undefined;
    return normalize(input, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), statistics,
                     settings->eps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto settings =
        c10::static_intrusive_pointer_cast<Settings>(context->saved_data["settings"].toCapsule());
    const auto tensors = context->get_saved_variables();
    const Saved saved{tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], settings->eps};
    variable_list results(5);  // one for each argument of forward
    {
      const at::AutoGradMode no_grad(false);
      const at::Tensor gradient = gradients[0].contiguous(saved.input.suggest_memory_format());
      const GradientSums own = sum_gradients(gradient, saved);
      if (saved.weight.defined()) {
        results[1] = (own.of_products * saved.inverse_deviation()).to(saved.weight.scalar_type());
        results[2] = own.of_gradients.to(context->saved_data["bias dtype"].toScalarType());
      }
      // All ranks agree on this: whether the layers below need a gradient depends on the model.
      if (context->needs_input_grad(0)) {
        results[0] = input_gradient(gradient, saved, add_over_ranks(own, *settings->group));
      }
    }
    for (at::Tensor& result : results) result = once(result);
    return results;
  }
};

}  // namespace

at::Tensor normalize_over_ranks(const at::Tensor& input, const at::Tensor& weight,
                                const at::Tensor& bias, const BatchStatistics& statistics,
                                double eps, std::shared_ptr<ProcessGroup> group) {
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
  };
  return NormalizeOverRanks::apply(input, optional(weight), optional(bias), statistics,
                                   c10::make_intrusive<Settings>(std::move(group), eps));
}

}  // namespace lockstep
