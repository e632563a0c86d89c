// SPDX-License-Identifier: BSD-3-Clause
#include "tensor_parallel/collective_step.h"

#include <ATen/WrapDimUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <numeric>
#include <utility>

namespace lockstep {
namespace {

using Kind = CollectiveStep::Kind;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor copy_of(const at::Tensor& input) {
  return input.clone(at::MemoryFormat::Contiguous);
}

std::int64_t size_of_share(const at::Tensor& input, std::int64_t dim, int ranks,
                           const std::string& name) {
  TORCH_CHECK(input.size(dim) % ranks == 0, name, ": ", ranks, " ranks cannot share dimension ",
              dim, " of ", input.sizes(), " equally; its size must be a multiple of ", ranks);
  return input.size(dim) / ranks;
}

/// What ranks compare beside shapes: which dimensions are cut or joined.
std::string along(const CollectiveStep& step) {
  std::string text = "(";  // short, as errors of other ranks show some 20 characters of a name
  text += std::to_string(step.dim);
  switch (step.kind) {
    case Kind::AllGather:
    case Kind::ReduceScatter:
      return text += ')';
    case Kind::Exchange:
      text += ", ";
      text += std::to_string(step.other_dim);
      return text += ')';
    default:
      return "";
  }
}

at::Tensor reduce_to_root(const at::Tensor& input, int root, ProcessGroup& group) {
  const at::Tensor sum = copy_of(input);
  group.reduce(sum, root).wait();
  return group.rank() == root ? sum : at::zeros_like(sum);
}

at::Tensor gather(const at::Tensor& input, std::int64_t dim, ProcessGroup& group) {
  const at::Tensor rows = rows_for(input, group.size());
  group.all_gather(rows, input.contiguous()).wait();
  return join_rows(rows, dim);
}

at::Tensor exchange_rows(const CollectiveStep& step, const at::Tensor& input, ProcessGroup& group) {
  std::vector<std::int64_t> shape = input.sizes().vec();
  shape[0] = std::accumulate(step.output_splits.begin(), step.output_splits.end(), std::int64_t{0});
  TORCH_CHECK(shape[0] >= 0, "all_to_all: the output splits add up to ", shape[0], " rows");
  const at::Tensor output = at::empty(shape, input.options());
  group.all_to_all(output, input.contiguous(), step.output_splits, step.input_splits).wait();
  return output;
}

at::Tensor communicate(const CollectiveStep& step, const at::Tensor& input, ProcessGroup& group,
                       const std::string& name) {
  switch (step.kind) {
    case Kind::AllReduce: {
      at::Tensor sum = copy_of(input);
      group.all_reduce(sum, step.op).wait();
      return sum;
    }
    case Kind::Reduce:
      return reduce_to_root(input, step.root, group);
    case Kind::Broadcast: {
      at::Tensor value = copy_of(input);
      group.broadcast(value, step.root).wait();
      return value;
    }
    case Kind::AllGather:
      return gather(input, step.dim, group);
    case Kind::ReduceScatter: {
      const at::Tensor rows = rows_of_ranks(input, step.dim, group.size(), name);
      at::Tensor own = at::empty(rows.sizes().slice(1), rows.options());
      group.reduce_scatter(own, rows, step.op).wait();
      return own;
    }
    case Kind::Exchange: {
      const at::Tensor rows = rows_of_ranks(input, step.dim, group.size(), name);
      const at::Tensor received = at::empty_like(rows);
      group.all_to_all(received, rows).wait();
      return join_rows(received, step.other_dim);
    }
    case Kind::ExchangeRows:
      return exchange_rows(step, input, group);
    default:
      return input;  // the others do not communicate
  }
}

/// What one direction needs, and the other one.
struct Direction : torch::CustomClassHolder {
  std::shared_ptr<ProcessGroup> group;
  CollectiveStep forward, backward;
  std::string name;
  bool is_backward = false;
};

struct LinearCollective : torch::autograd::Function<LinearCollective> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input,
                            const c10::intrusive_ptr<Direction>& direction) {
    context->saved_data["direction"] = c10::IValue::make_capsule(direction);
    const std::string name = direction->name + (direction->is_backward ? " backward" : "");
    at::Tensor output = run_step(direction->forward, input, *direction->group, name);
    // A view, as autograd wants it of a function that gives its input back.
    return output.is_same(input) ? output.view_as(output) : output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto made =
        c10::static_intrusive_pointer_cast<Direction>(context->saved_data["direction"].toCapsule());
    auto other = c10::make_intrusive<Direction>();
    other->group = made->group;
    other->forward = made->backward;
    other->backward = made->forward;
    other->name = made->name;
    other->is_backward = !made->is_backward;
    return {LinearCollective::apply(gradients[0], other), at::Tensor()};
  }
};

}  // namespace

std::string call_name(const std::string& name, at::IntArrayRef shape) {
  std::string text = name;
  text += " [";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += ']';
  return text;
}

at::Tensor rows_of_ranks(const at::Tensor& input, std::int64_t dim, int ranks,
                         const std::string& name) {
  const auto own = size_of_share(input, dim, ranks, name);
  return input.unflatten(dim, {ranks, own}).movedim(dim, 0).contiguous();
}

at::Tensor rows_for(const at::Tensor& own, int ranks) {
  std::vector<std::int64_t> shape{ranks};
  shape.insert(shape.end(), own.sizes().begin(), own.sizes().end());
  return at::empty(shape, own.options());
}

at::Tensor join_rows(const at::Tensor& rows, std::int64_t dim) {
  return rows.movedim(0, dim).flatten(dim, dim + 1);
}

at::Tensor run_step(const CollectiveStep& step, const at::Tensor& input, ProcessGroup& group,
                    const std::string& name) {
  const at::NoGradGuard no_grad;
  if (step.kind == Kind::Identity) return input;
  // Results are new tensors, and none is a view for autograd, which could not be changed in place.
  const at::AutoDispatchBelowADInplaceOrView guard;
  if (step.kind == Kind::OwnPart) {
    const auto own = size_of_share(input, step.dim, group.size(), name);
    return copy_of(input.narrow(step.dim, group.rank() * own, own));
  }
  // The numbers of rows are all that may differ.
  const auto shape =
      step.kind == Kind::ExchangeRows ? input.sizes().slice(1) : at::IntArrayRef(input.sizes());
  const auto scope = group.with(CallOptions().name(call_name(name + along(step), shape)));
  return communicate(step, input, group, name);
}

void check_call(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                const char* name) {
  TORCH_CHECK(group != nullptr, name, ": the process group is null");
  TORCH_CHECK(input.defined(), name, ": the tensor is undefined");
}

at::Tensor linear_collective(const at::Tensor& input, const std::shared_ptr<ProcessGroup>& group,
                             CollectiveStep forward, CollectiveStep backward,
                             const std::string& name) {
  check_call(input, group, name.c_str());
  for (CollectiveStep* step : {&forward, &backward}) {
    const bool has_dimension = step->kind == Kind::OwnPart || step->kind == Kind::AllGather ||
                               step->kind == Kind::ReduceScatter || step->kind == Kind::Exchange ||
                               step->kind == Kind::ExchangeRows;
    if (!has_dimension) continue;
    TORCH_CHECK(input.dim() > 0, name, ": a tensor without dimensions cannot be cut or joined");
    step->dim = at::maybe_wrap_dim(step->dim, input.dim());
    step->other_dim = at::maybe_wrap_dim(step->other_dim, input.dim());
  }
  auto direction = c10::make_intrusive<Direction>();
  direction->group = group;
  direction->forward = std::move(forward);
  direction->backward = std::move(backward);
  direction->name = name;
  return LinearCollective::apply(input, direction);
}

}  // namespace lockstep
