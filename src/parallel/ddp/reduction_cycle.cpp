// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reduction_cycle.h"

#include <string>
#include <utility>

namespace lockstep {

ReductionCycle::ReductionCycle(const ReducerContext& context, std::function<NamedTensors()> buffers)
    : context_(context),
      summary_(context.group, context.parameters.size()),
      weights_(context.options.averaging()),
      writer_(context),
      values_(std::move(buffers), context.options.buffer_sync()) {}

bool ReductionCycle::has_summary() const {
  return !context_.options.static_graph() || cycles_ == 0 || context_.assignment.is_other_set();
}

void ReductionCycle::note_begin() {
  has_begun_ = true;
  begin_ = Clock::now();
}

void ReductionCycle::prepare(std::optional<std::int64_t> samples) {
  context_.assignment.set().begin_cycle();
  weights_.begin_cycle(context_.group, samples);
  summary_.clear();
  summary_.set_samples(samples);
}

void ReductionCycle::tell_idle() {
  if (had_idle_) summary_.add_idle();
}

bool ReductionCycle::complete(Clock::time_point end_of_backward) {
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
    learn();
    note_times(end_of_backward, wait_begin, wait_end);
  } else {
    // What is left of the last cycle's lies in buckets that are zeros now.
    for (auto& parameter : context_.parameters) parameter.tensor.mutable_grad().reset();
  }
  return has_data;
}

void ReductionCycle::launch_summary() {
  for (std::size_t i = 0; i < context_.parameters.size(); ++i) {
    ReducedParameter& parameter = context_.parameters[i];
    if (!parameter.is_planned) note_left_over(parameter);
    if (parameter.is_used) summary_.add_used(i);
    if (parameter.is_late) summary_.add_late(i);
    if (parameter.is_sparse) summary_.add_sparse(i);
  }
  const auto scope = context_.group.with(
      CallOptions().name(context_.assignment.call_name("summary of a backward")));
  summary_.launch(context_.group);
}

void ReductionCycle::note_left_over(ReducedParameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  parameter.is_used =
      parameter.is_used && gradient.defined() && !parameter.is_given_by_another(context_.reducer);
  parameter.is_sparse = parameter.is_used && gradient.layout() != at::kStrided;
  parameter.is_late = parameter.is_used && !parameter.is_sparse;
  if (parameter.is_used) parameter.set_aside();
}

void ReductionCycle::check_summary() {
  if (summary_.idle() == 0 || summary_.idle() == summary_.active_ranks()) return;
  const bool was_idle = std::exchange(had_idle_, false);  // said now, to all
  throw MismatchError(
      context_of(context_.group),
      context_.options.name() + ": before this backward, " + std::to_string(summary_.idle()) +
          " of " + std::to_string(summary_.active_ranks()) + " ranks (" +
          (was_idle ? "this one is one of them" : "not this one") +
          ") made a forward with all parameters frozen",
      "all ranks freeze the same parameters; a rank that looks at something alone calls forward of "
      "the wrapped module");
}

void ReductionCycle::write_averages() {
  AverageWriter::Cycle cycle{.summary = has_summary() ? &summary_ : nullptr,
                             .scale = weights_.scale(),
                             .backward = backward_};
  if (has_summary()) writer_.add_late_gradients(cycle);
  cycle.factor = factor();
  cycle.has_samples = context_.options.averaging() != GradientAveraging::Samples ||
                      !has_summary() || summary_.total_samples() > 0;
  writer_.give_all(cycle);
}

double ReductionCycle::factor() {
  if (!has_summary()) return 1;
  const int ranks = context_.group.size();
  first_active_rank_ = summary_.first_active_rank();
  had_shadows_ = had_shadows_ || summary_.active_ranks() < ranks;
  return weights_.factor(summary_, ranks);
}

void ReductionCycle::learn() {
  ++cycles_;
  context_.assignment.set().end_cycle(context_.group, first_active_rank_);
}

void ReductionCycle::note_times(Clock::time_point end_of_backward, Clock::time_point wait_begin,
                                Clock::time_point wait_end) {
  auto& statistics = context_.statistics;
  statistics.last = {{},
                     end_of_backward - begin_,
                     wait_end - context_.buckets.first_launch(),
                     wait_end - wait_begin};
  statistics.total.backward += statistics.last.backward;
  statistics.total.communication += statistics.last.communication;
  statistics.total.exposed += statistics.last.exposed;
  ++statistics.steps;
  statistics.copied_bytes = context_.buckets.copied_bytes();
}

bool ReductionCycle::finish_in_flight() noexcept {
  if (!summary_.is_launched()) return true;
  try {
    summary_.wait(context_.group);
  } catch (...) {  // the first error is on its way
    return false;
  }
  return true;
}

bool ReductionCycle::take_had_shadows() noexcept {
  had_idle_ = false;  // ranks had different numbers of steps
  return std::exchange(had_shadows_, false);
}

}  // namespace lockstep
