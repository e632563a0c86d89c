// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_parallel/column_linear.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <lockstep/tensor_parallel/regions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <optional>
#include <utility>

#include "tensor_parallel/collective_step.h"

namespace lockstep::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ColumnSettings : torch::CustomClassHolder {
  ColumnSettings(std::shared_ptr<ProcessGroup> its_group, bool its_sequence_cut)
      : group(std::move(its_group)), is_sequence_cut(its_sequence_cut) {}
  std::shared_ptr<ProcessGroup> group;
  bool is_sequence_cut;
};

/// A collective under way, and what it writes.
struct Pending {
  at::Tensor result;
  Work work;
};

std::vector<std::int64_t> with_first(at::IntArrayRef sizes, std::int64_t first) {
  auto shape = sizes.vec();
  shape[0] = first;
  return shape;
}

Pending start_gather(const at::Tensor& input, ProcessGroup& group) {
  const auto scope = group.with(CallOptions().name(call_name("column input again", input.sizes())));
  at::Tensor all =
      at::empty(with_first(input.sizes(), input.size(0) * group.size()), input.options());
  return {all, group.all_gather(all, input.contiguous())};
}

/// `gradient`: new and contiguous.
Pending start_sum(const at::Tensor& gradient, bool is_sequence_cut, ProcessGroup& group) {
  const auto scope = group.with(CallOptions().name(call_name("column gradient", gradient.sizes())));
  if (!is_sequence_cut) return {gradient, group.all_reduce(gradient)};
  at::Tensor own =
      at::empty(with_first(gradient.sizes(), gradient.size(0) / group.size()), gradient.options());
  return {own, group.reduce_scatter(own, gradient)};
}

at::Tensor matrix_of(const at::Tensor& tensor) {
  return tensor.reshape({-1, tensor.size(-1)});
}

/// Which gradients are wanted.
struct Wanted {
  bool input, weight, bias;
};

variable_list differentiate(const at::Tensor& input, const at::Tensor& weight,
                            const at::Tensor& gradient, const Wanted& wanted,
                            const ColumnSettings& settings) {
  ProcessGroup& group = *settings.group;
  const at::NoGradGuard no_grad;
  const at::Tensor rows = matrix_of(gradient);
  std::optional<Pending> again, sum;
  at::Tensor full = input;
  if (settings.is_sequence_cut && wanted.weight) again = start_gather(input, group);
  if (wanted.input) {
    auto shape = gradient.sizes().vec();
    shape.back() = weight.size(1);
    const at::Tensor product = at::mm(rows, weight).view(shape);
    if (again) again->work.wait();
    sum = start_sum(product, settings.is_sequence_cut, group);
  } else if (again) {
    again->work.wait();
  }
  if (again) full = again->result;
  variable_list results(3);
  // While the sum is under way.
  if (wanted.weight) results[1] = at::mm(rows.t(), matrix_of(full));
  if (wanted.bias) results[2] = rows.sum(0);
  if (sum) {
    sum->work.wait();
    results[0] = sum->result;
  }
  return results;
}

/// The same by functions that have derivatives, one after another.
variable_list differentiate_in_graph(const at::Tensor& input, const at::Tensor& weight,
                                     const at::Tensor& gradient, const Wanted& wanted,
                                     const ColumnSettings& settings) {
  variable_list results(3);
  if (wanted.input) {
    const at::Tensor product = gradient.matmul(weight);
    results[0] = settings.is_sequence_cut
                     ? tensor_parallel::reduce_scatter_to_sequence(product, settings.group)
                     : tensor_parallel::reduce_from(product, settings.group);
  }
  if (wanted.weight) {
    const at::Tensor full = settings.is_sequence_cut
                                ? tensor_parallel::gather_from_sequence(input, settings.group)
                                : tensor_parallel::copy_to(input, settings.group);
    results[1] = matrix_of(gradient).t().mm(matrix_of(full));
  }
  if (wanted.bias) results[2] = matrix_of(gradient).sum(0);
  return results;
}

struct ColumnLinear : torch::autograd::Function<ColumnLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            const c10::intrusive_ptr<ColumnSettings>& settings) {
    context->save_for_backward({input, weight});
    context->saved_data["settings"] = c10::IValue::make_capsule(settings);
    context->saved_data["has bias"] = bias.has_value();
    // Else the result would be a view made in a function, which cannot be changed in place.
    const at::AutoDispatchBelowADInplaceOrView guard;
    if (!settings->is_sequence_cut) return at::linear(input, weight, bias);
    CollectiveStep gather{.kind = CollectiveStep::Kind::AllGather};
    return at::linear(run_step(gather, input, *settings->group, "column input"), weight, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto settings = c10::static_intrusive_pointer_cast<ColumnSettings>(
        context->saved_data["settings"].toCapsule());
    const auto saved = context->get_saved_variables();
    const Wanted wanted{context->needs_input_grad(0), context->needs_input_grad(1),
                        context->saved_data["has bias"].toBool() && context->needs_input_grad(2)};
    const auto how = at::GradMode::is_enabled() ? differentiate_in_graph : differentiate;
    auto results = how(saved[0], saved[1], gradients[0], wanted, *settings);
    results.emplace_back();  // the settings have none
    return results;
  }
};

}  // namespace

at::Tensor column_linear(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                         const std::shared_ptr<ProcessGroup>& group, bool is_sequence_cut) {
  const auto its_bias = bias.defined() ? std::make_optional(bias) : std::nullopt;
  if (group->size() == 1) return at::linear(input, weight, its_bias);
  return ColumnLinear::apply(input, weight, its_bias,
                             c10::make_intrusive<ColumnSettings>(group, is_sequence_cut));
}

}  // namespace lockstep::nn
