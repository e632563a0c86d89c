// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <lockstep/tensor_parallel/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

#include "tensor_parallel/collective_step.h"

namespace lockstep::autograd {
namespace {

using Kind = CollectiveStep::Kind;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Extremum : torch::CustomClassHolder {
  Extremum(std::shared_ptr<ProcessGroup> its_group, ReduceOp its_op)
      : group(std::move(its_group)), op(its_op) {}
  std::shared_ptr<ProcessGroup> group;
  ReduceOp op;
};

/// Max or Min, the only ones here that are not linear.
struct ReduceToExtremum : torch::autograd::Function<ReduceToExtremum> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const c10::intrusive_ptr<Extremum>& extremum) {
    CollectiveStep step{.kind = Kind::AllReduce};
    step.op = extremum->op;
    at::Tensor output = run_step(step, input, *extremum->group, "all_reduce");
    context->saved_data["extremum"] = c10::IValue::make_capsule(extremum);
    context->save_for_backward({input, output});
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto extremum =
        c10::static_intrusive_pointer_cast<Extremum>(context->saved_data["extremum"].toCapsule());
    const auto saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients[0];
    at::Tensor has_it;
    {
      const at::NoGradGuard no_grad;
      has_it = saved[0].eq(saved[1]).logical_or(saved[0].isnan()).to(gradient.scalar_type());
    }
    // The sum of the gradients, and how many ranks share it, in one call.
    const at::Tensor sums = all_reduce(at::stack({gradient, has_it}), extremum->group);
    return {sums.select(0, 0) * has_it / sums.select(0, 1), at::Tensor()};
  }
};

}  // namespace

at::Tensor all_reduce(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      ReduceOp op) {
  if (op == ReduceOp::Max || op == ReduceOp::Min) {
    check_call(input, group, "all_reduce");
    return ReduceToExtremum::apply(input, c10::make_intrusive<Extremum>(group, op));
  }
  TORCH_CHECK(op == ReduceOp::Sum || op == ReduceOp::Avg, "autograd::all_reduce: ", to_string(op),
              " has no derivative here; use Sum, Avg, Max or Min");
  CollectiveStep step{.kind = Kind::AllReduce};
  step.op = op;
  return linear_collective(input, group, step, step, "all_reduce");
}

at::Tensor reduce(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group, int root) {
  CollectiveStep forward{.kind = Kind::Reduce};
  forward.root = root;
  CollectiveStep backward{.kind = Kind::Broadcast};
  backward.root = root;
  return linear_collective(input, group, forward, backward, "reduce");
}

at::Tensor broadcast(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                     int root) {
  CollectiveStep forward{.kind = Kind::Broadcast};
  forward.root = root;
  CollectiveStep backward{.kind = Kind::Reduce};
  backward.root = root;
  return linear_collective(input, group, forward, backward, "broadcast");
}

at::Tensor all_gather(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      std::int64_t dim) {
  return linear_collective(input, group, {.kind = Kind::AllGather, .dim = dim},
                           {.kind = Kind::ReduceScatter, .dim = dim}, "all_gather");
}

at::Tensor reduce_scatter(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                          ReduceOp op, std::int64_t dim) {
  TORCH_CHECK(op == ReduceOp::Sum || op == ReduceOp::Avg,
              "autograd::reduce_scatter: ", to_string(op),
              " has no derivative here; use Sum or Avg");
  at::Tensor sum = linear_collective(input, group, {.kind = Kind::ReduceScatter, .dim = dim},
                                     {.kind = Kind::AllGather, .dim = dim}, "reduce_scatter");
  if (op == ReduceOp::Sum) return sum;
  TORCH_CHECK(input.is_floating_point() || input.is_complex(),
              "autograd::reduce_scatter: Avg takes no integers, got ", input.scalar_type());
  return sum * (1.0 / group->size());
}

at::Tensor all_to_all(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      std::int64_t split_dim, std::int64_t concat_dim) {
  return linear_collective(
      input, group, {.kind = Kind::Exchange, .dim = split_dim, .other_dim = concat_dim},
      {.kind = Kind::Exchange, .dim = concat_dim, .other_dim = split_dim}, "all_to_all");
}

at::Tensor all_to_all(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                      at::IntArrayRef output_splits, at::IntArrayRef input_splits) {
  CollectiveStep forward{.kind = Kind::ExchangeRows};
  forward.output_splits = output_splits.vec();
  forward.input_splits = input_splits.vec();
  CollectiveStep backward{.kind = Kind::ExchangeRows};
  backward.output_splits = input_splits.vec();
  backward.input_splits = output_splits.vec();
  return linear_collective(input, group, forward, backward, "all_to_all");
}

}  // namespace lockstep::autograd
