// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/average_writer.h"

#include <ATen/ops/zeros_like.h>

#include "parallel/buckets/sparse_gradients.h"

namespace lockstep {

void AverageWriter::add_late_gradients(const Cycle& cycle) {
  auto& statistics = context_.statistics;
  statistics.late_parameters.clear();
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    if (cycle.summary->late(i) == 0) continue;
    ReducedParameter& parameter = context_.parameters[i];
    statistics.late_parameters.push_back(parameter.name);
    // In memory order, as the bucket's: ordinary memory, since this is rare.
    const at::Tensor late =
        parameter.is_planned ? at::zeros_like(bucket_of(parameter).view(parameter.place))
                             : at::zeros_like(parameter.tensor, at::TensorOptions(parameter.dtype));
    if (parameter.is_late && cycle.scale != 0) late.add_(parameter.aside, cycle.scale);
    const auto scope =
        context_.group.with(CallOptions().name(context_.assignment.call_name("late gradient")));
    context_.group.all_reduce(late, ReduceOp::Avg).wait();
    if (parameter.is_planned) {
      bucket_of(parameter).view(parameter.place).add_(late);
    } else {
      parameter.late = late;
    }
  }
}

void AverageWriter::give_all(const Cycle& cycle) {
  if (cycle.factor != 1) context_.buckets.multiply(cycle.factor);
  context_.statistics.unused_parameters.clear();
  context_.statistics.locally_unused_parameters.clear();
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    if (context_.parameters[i].is_planned) {
      give_planned(i, cycle);
    } else {
      give_unplanned(i, cycle);
    }
  }
}

void AverageWriter::give_unplanned(std::size_t index, const Cycle& cycle) {
  const ReductionSummary* const summary = cycle.summary;
  if (summary == nullptr || summary->used(index) == 0) return;
  ReducedParameter& parameter = context_.parameters[index];
  if (!cycle.has_samples) {
    if (parameter.aside.defined()) parameter.tensor.mutable_grad() = parameter.aside;
    return;
  }
  parameter.was_dense = summary->used(index) > summary->sparse(index);
  if (parameter.was_dense) parameter.late.mul_(cycle.factor);
  give(parameter,
       summary->sparse(index) > 0 ? sparse_average(parameter, cycle)
                                  : parameter.late.to(parameter.tensor.scalar_type()),
       cycle);
}

void AverageWriter::give_planned(std::size_t index, const Cycle& cycle) {
  note_usage(index, cycle.summary);
  ReducedParameter& parameter = context_.parameters[index];
  if (!parameter.was_used || !cycle.has_samples) {
    // Stays as it is, undefined as a rule, so that no optimizer moves it. If it was not taken, it
    // may be what another model that shares the parameter has made it.
    if (parameter.kept.defined()) parameter.tensor.mutable_grad() = parameter.kept;
  } else if (parameter.was_sparse) {
    give(parameter, sparse_average(parameter, cycle), cycle);
  } else {
    give(parameter, bucket_of(parameter).average(parameter.place, parameter.tensor), cycle);
  }
}

void AverageWriter::note_usage(std::size_t index, const ReductionSummary* summary) {
  ReducedParameter& parameter = context_.parameters[index];
  if (summary != nullptr) {
    // With a static graph there is no other summary, and the next time this model may be the one
    // that takes a shared parameter's gradient.
    parameter.was_used =
        summary->used(index) > 0 || (context_.options.static_graph() && parameter.is_shared);
    parameter.was_sparse = summary->sparse(index) > 0;
    parameter.was_dense = summary->used(index) > summary->sparse(index);
  }
  TORCH_CHECK(!parameter.is_used || parameter.was_used, "DistributedDataParallel: parameter '",
              parameter.name,
              "' has a gradient, and no rank had one in the first backward, which static_graph "
              "excludes");
  if (parameter.count > 0) parameter.expected = parameter.count;
  if (parameter.is_shared) return;
  auto& statistics = context_.statistics;
  if (!parameter.is_used) statistics.locally_unused_parameters.push_back(parameter.name);
  if (!parameter.was_used) statistics.unused_parameters.push_back(parameter.name);
}

void AverageWriter::give(ReducedParameter& parameter, const at::Tensor& average,
                         const Cycle& cycle) {
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  const bool is_a_part = gradient.defined() && parameter.is_given_by_another(context_.reducer);
  // Dense before sparse, as an addition wants it.
  if (!is_a_part) {
    gradient = average;
  } else if (gradient.layout() == at::kStrided) {
    gradient = gradient.add(average);
  } else {
    gradient = average.add(gradient);
  }
  if (parameter.listeners) parameter.listeners->note_given(context_.reducer, cycle.backward);
}

at::Tensor AverageWriter::sparse_average(const ReducedParameter& parameter, const Cycle& cycle) {
  const bool has_any = parameter.is_sparse && cycle.scale != 0;
  at::Tensor average = average_sparse(context_.group, has_any ? parameter.aside : at::Tensor(),
                                      parameter.tensor, cycle.scale);
  if (cycle.factor != 1) average = average.mul(cycle.factor);
  if (!parameter.was_dense) return average;
  const at::Tensor& dense =
      parameter.is_planned ? bucket_of(parameter).view(parameter.place) : parameter.late;
  return dense.to(average.scalar_type()).add(average);
}

}  // namespace lockstep
