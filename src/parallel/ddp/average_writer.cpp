// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/average_writer.h"

#include <ATen/ops/zeros_like.h>

#include "parallel/buckets/sparse_gradients.h"

namespace lockstep {

void AverageWriter::add_late_gradients(const Iteration& iteration) {
  auto& statistics = context_.statistics;
  statistics.late_parameters.clear();
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    if (iteration.summary->late(i) == 0) continue;
    ReducedParameter& parameter = context_.parameters[i];
    statistics.late_parameters.push_back(parameter.name);
    // Late gradients are laid out as the bucket's, in ordinary memory, since they are rare.
    const at::Tensor late =
        parameter.is_assigned
            ? at::zeros_like(bucket_of(parameter).view(parameter.place))
            : at::zeros_like(parameter.tensor, at::TensorOptions(parameter.dtype));
    if (parameter.is_late && iteration.scale != 0) late.add_(parameter.aside, iteration.scale);
    const auto scope =
        context_.group.with(CallOptions().name(context_.assignments.call_name("late gradient")));
    context_.group.all_reduce(late, ReduceOp::Avg).wait();
    if (parameter.is_assigned) {
      const GradientBucket& bucket = bucket_of(parameter);
      bucket.view(parameter.place).add_(late, bucket.divisor());
    } else {
      parameter.late = late;
    }
  }
}

void AverageWriter::write_all(const Iteration& iteration) {
  context_.buckets.multiply(iteration.factor);
  context_.statistics.unused_parameters.clear();
  context_.statistics.locally_unused_parameters.clear();
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    if (context_.parameters[i].is_assigned) {
      write_assigned(i, iteration);
    } else {
      write_unassigned(i, iteration);
    }
  }
}

void AverageWriter::write_unassigned(std::size_t index, const Iteration& iteration) {
  const UsageSummary* const summary = iteration.summary;
  ReducedParameter& parameter = context_.parameters[index];
  TORCH_CHECK(summary != nullptr || !parameter.is_waiting(), "DistributedDataParallel: parameter '",
              parameter.name,
              "' has a gradient that waits for its average, though it was frozen in the last "
              "forward, which static_graph excludes");
  if (summary == nullptr || summary->used(index) == 0) return;
  if (!iteration.has_samples) {
    if (parameter.aside.defined()) parameter.tensor.mutable_grad() = parameter.aside;
    return;
  }
  parameter.was_dense = summary->used(index) > summary->sparse(index);
  if (parameter.was_dense) parameter.late.mul_(iteration.factor);
  write(parameter,
        summary->sparse(index) > 0 ? sparse_average(parameter, iteration)
                                   : parameter.late.to(parameter.tensor.scalar_type()),
        iteration);
}

void AverageWriter::write_assigned(std::size_t index, const Iteration& iteration) {
  note_usage(index, iteration.summary);
  ReducedParameter& parameter = context_.parameters[index];
  if (!parameter.was_used || !iteration.has_samples) {
    // The gradient stays as it is, undefined as a rule, so that no optimizer moves the parameter.
    // If it was not collected, another model that shares the parameter may have written it.
    if (parameter.kept.defined()) parameter.tensor.mutable_grad() = parameter.kept;
  } else if (parameter.was_sparse) {
    write(parameter, sparse_average(parameter, iteration), iteration);
  } else {
    write(parameter, bucket_of(parameter).average(parameter.place, parameter.tensor), iteration);
  }
}

void AverageWriter::note_usage(std::size_t index, const UsageSummary* summary) {
  ReducedParameter& parameter = context_.parameters[index];
  if (summary != nullptr) {
    // With a static graph there is no other summary, and the next time this model may be the one
    // that collects a shared parameter's gradient.
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

void AverageWriter::write(ReducedParameter& parameter, const at::Tensor& average,
                          const Iteration& iteration) {
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  const bool is_a_part = gradient.defined() && parameter.is_written_by_another(context_.reducer);
  // An addition wants the dense tensor before the sparse one.
  if (!is_a_part) {
    gradient = average;
  } else if (gradient.layout() == at::kStrided) {
    gradient = gradient.add(average);
  } else {
    gradient = average.add(gradient);
  }
  if (parameter.listeners) parameter.listeners->note_written(context_.reducer, iteration.backward);
}

at::Tensor AverageWriter::sparse_average(const ReducedParameter& parameter,
                                         const Iteration& iteration) {
  const bool has_any = parameter.is_sparse && iteration.scale != 0;
  at::Tensor average = average_sparse(context_.group, has_any ? parameter.aside : at::Tensor(),
                                      parameter.tensor, iteration.scale);
  if (iteration.factor != 1) average = average.mul(iteration.factor);
  if (!parameter.was_dense) return average;
  const at::Tensor& dense =
      parameter.is_assigned ? bucket_of(parameter).view(parameter.place) : parameter.late;
  return dense.to(average.scalar_type()).add(average);
}

}  // namespace lockstep
