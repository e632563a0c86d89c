// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reduction_iteration.h"

#include <string>
#include <utility>

namespace lockstep {

ReductionIteration::ReductionIteration(const ReducerContext& context,
                                       std::function<NamedTensors()> buffers)
    : context_(context),
      summary_(context.group, context.parameters.size()),
      weights_(context.options.averaging()),
      writer_(context),
      values_(std::move(buffers), context.options.buffer_sync()) {}

bool ReductionIteration::has_summary() const {
  return !context_.options.static_graph() || context_.assignments.is_other_set();
}

void ReductionIteration::note_begin() {
  has_begun_ = true;
  begin_ = Clock::now();
}

void ReductionIteration::prepare(std::optional<std::int64_t> samples) {
  context_.assignments.current().begin_iteration();
  weights_.begin_iteration(context_.group, samples);
  summary_.clear();
  summary_.set_samples(samples);
}

void ReductionIteration::tell_idle() {
  if (had_idle_) summary_.add_idle();
}

bool ReductionIteration::complete(Clock::time_point end_of_backward) {
  if (has_summary()) launch_summary();
  const auto wait_begin = Clock::now();
  context_.buckets.wait();
  if (has_summary()) {
    summary_.wait(context_.group);
    check_summary();
  }
  const auto wait_end = Clock::now();

  const bool has_data = summary_.active_ranks() > 0 || !has_summary();
  if (has_data) {
    write_averages();
    const bool is_active = !has_summary() || summary_.is_active(context_.group.rank());
    values_.synchronize(context_.group, is_active, first_active_rank_);
    had_idle_ = false;
    context_.assignments.end_iteration(context_.group, first_active_rank_);
    note_times(end_of_backward, wait_begin, wait_end);
  } else {
    // The gradients of the last iteration lie in buckets that are zeros now.
    for (auto& parameter : context_.parameters) parameter.tensor.mutable_grad().reset();
  }
  return has_data;
}

void ReductionIteration::launch_summary() {
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    ReducedParameter& parameter = context_.parameters[i];
    if (!parameter.is_assigned) set_aside_left_over(parameter);
    if (parameter.is_used) summary_.add_used(i);
    if (!parameter.is_assigned && !parameter.is_used) continue;
    if (parameter.is_late) summary_.add_late(i);
    if (parameter.is_sparse) summary_.add_sparse(i);
  }
  const auto scope = context_.group.with(
      CallOptions().name(context_.assignments.call_name("summary of a backward")));
  summary_.launch(context_.group);
}

void ReductionIteration::set_aside_left_over(ReducedParameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  const bool has_any = has_gradient_of_its_shape(parameter.tensor) &&
                       !parameter.is_written_by_another(context_.reducer);
  parameter.is_used = parameter.is_used && has_any;
  if (!has_any) return;
  parameter.is_sparse = gradient.layout() != at::kStrided;
  parameter.is_late = !parameter.is_sparse;
  if (parameter.is_used) {
    parameter.set_aside();
  } else {
    parameter.aside = gradient;  // if other ranks used the parameter, theirs add to it
  }
}

void ReductionIteration::check_summary() {
  if (summary_.idle() == 0 || summary_.idle() == summary_.active_ranks()) return;
  const bool was_idle = std::exchange(had_idle_, false);  // all ranks know it now
  throw MismatchError(
      context_of(context_.group),
      context_.options.name() + ": before this backward, " + std::to_string(summary_.idle()) +
          " of " + std::to_string(summary_.active_ranks()) + " ranks (" +
          (was_idle ? "this one is one of them" : "not this one") +
          ") made a forward with all parameters frozen",
      "all ranks freeze the same parameters; a rank that looks at something alone calls forward of "
      "the wrapped module");
}

void ReductionIteration::write_averages() {
  AverageWriter::Iteration iteration{.summary = has_summary() ? &summary_ : nullptr,
                                     .scale = weights_.scale(),
                                     .backward = backward_};
  if (has_summary()) writer_.add_late_gradients(iteration);
  iteration.factor = factor();
  iteration.has_samples = context_.options.averaging() != GradientAveraging::Samples ||
                          !has_summary() || summary_.total_samples() > 0;
  writer_.write_all(iteration);
}

double ReductionIteration::factor() {
  if (!has_summary()) return 1;
  const int ranks = context_.group.size();
  first_active_rank_ = summary_.first_active_rank();
  had_shadows_ = had_shadows_ || summary_.active_ranks() < ranks;
  return weights_.factor(summary_, ranks);
}

void ReductionIteration::note_times(Clock::time_point end_of_backward, Clock::time_point wait_begin,
                                    Clock::time_point wait_end) {
  auto& statistics = context_.statistics;
  auto& moments = statistics.moments;
  moments.backward_begin = begin_;
  moments.backward_end = end_of_backward;
  moments.first_launch = context_.buckets.first_launch();
  moments.wait_begin = wait_begin;
  moments.wait_end = wait_end;
  statistics.last = {
      {}, end_of_backward - begin_, wait_end - moments.first_launch, wait_end - wait_begin};
  statistics.total.backward += statistics.last.backward;
  statistics.total.communication += statistics.last.communication;
  statistics.total.exposed += statistics.last.exposed;
  ++statistics.steps;
  statistics.copied_bytes = context_.buckets.copied_bytes();
}

bool ReductionIteration::finish_in_flight() noexcept {
  if (!summary_.is_launched()) return true;
  try {
    summary_.wait(context_.group);
  } catch (...) {  // the first error is on its way
    return false;
  }
  return true;
}

bool ReductionIteration::take_had_shadows() noexcept {
  had_idle_ = false;  // ranks had different numbers of steps
  return std::exchange(had_shadows_, false);
}

}  // namespace lockstep
