// SPDX-License-Identifier: BSD-3-Clause
// The end of a cycle: what is left to be reduced, the average, and what ranks learn of one another.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "parallel/buckets/sparse_gradients.h"
#include "parallel/ddp/reducer_state.h"

namespace lockstep {
namespace {

// Of parameters that an error speaks of.
constexpr std::size_t kMostNames = 3;

}  // namespace

void ReducerState::finish() {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  try {
    static_cast<void>(complete_cycle());
  } catch (MismatchError& error) {
    explain(error);
    settle();
    throw;
  } catch (...) {
    settle();
    throw;
  }
}

bool ReducerState::shadow(const std::shared_ptr<bool>& round) {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  if (is_in_cycle_) recover();
  try {
    begin_cycle(std::nullopt);
    backward_ = round;
    // Whatever gradients this rank still has belong to no data of this cycle. They are dropped, so
    // that a step cannot take one that the others no longer have. One that another model has given
    // in this round stays, if this one has none.
    for (Parameter& parameter : parameters_) {
      parameter.is_used = false;
      parameter.kept.reset();
      at::Tensor& gradient = parameter.tensor.mutable_grad();
      if (parameter.listeners && parameter.listeners->is_given_by_another(*this)) {
        if (!parameter.is_planned) continue;  // that one's to drop
        parameter.kept = gradient;
      }
      gradient.reset();
      if (parameter.is_planned) bucket_of(parameter).take_nothing(parameter.place);
    }
    return complete_cycle();
  } catch (MismatchError& error) {
    explain(error);
    settle();
    throw;
  } catch (...) {
    settle();
    throw;
  }
}

bool ReducerState::complete_cycle() {
  const auto end_of_backward = Clock::now();
  close_arenas();
  for (Parameter& parameter : parameters_) {
    if (!parameter.is_planned) continue;
    GradientBucket& bucket = bucket_of(parameter);
    if (bucket.has_taken(parameter.place)) continue;
    // What another model made the gradient of this backward is no part of this one's.
    if (parameter.listeners && parameter.listeners->is_given_by_another(*this)) {
      bucket.take_nothing(parameter.place);
    } else {
      take(parameter);
    }
  }
  launch_complete_buckets();
  if (has_summary()) launch_summary();
  const auto wait_begin = Clock::now();
  wait_for_buckets();
  if (has_summary()) {
    summary_->wait(*group_);
    check_summary();
  }
  const auto wait_end = Clock::now();

  const bool has_data = summary_->active_ranks() > 0 || !has_summary();
  if (has_data) {
    if (has_summary()) add_late_gradients();
    give_all(factor());
    synchronize_buffers();
    broadcast_tensors(*group_, std::exchange(shared_, {}), 0);
    had_idle_ = false;
    learn();
    statistics_.last = {
        {}, end_of_backward - cycle_begin_, wait_end - first_launch_, wait_end - wait_begin};
    statistics_.total.backward += statistics_.last.backward;
    statistics_.total.communication += statistics_.last.communication;
    statistics_.total.exposed += statistics_.last.exposed;
    ++statistics_.steps;
    statistics_.copied_bytes = 0;
    for (const auto& bucket : buckets_) statistics_.copied_bytes += bucket->copied_bytes();
  } else {
    // What is left of the last cycle's lies in buckets that are zeros now.
    for (Parameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
  }
  reset();
  return has_data;
}

bool ReducerState::has_summary() const {
  return !options_.static_graph() || cycles_ == 0 || is_other_set_;
}

void ReducerState::launch_summary() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i].is_planned) note_left_over(parameters_[i]);
    if (parameters_[i].is_used) summary_->add_used(i);
    if (parameters_[i].is_late) summary_->add_late(i);
    if (parameters_[i].is_sparse) summary_->add_sparse(i);
  }
  const auto scope = group_->with(CallOptions().name(call_name("summary of a backward")));
  summary_->launch(*group_);
}

void ReducerState::note_left_over(Parameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  const auto& listeners = parameter.listeners;
  parameter.is_used = parameter.is_used && gradient.defined() &&
                      !(listeners && listeners->is_given_by_another(*this));
  parameter.is_sparse = parameter.is_used && gradient.layout() != at::kStrided;
  parameter.is_late = parameter.is_used && !parameter.is_sparse;
  if (parameter.is_used) set_aside(parameter);
}

void ReducerState::check_summary() {
  if (summary_->idle() == 0 || summary_->idle() == summary_->active_ranks()) return;
  const bool was_idle = std::exchange(had_idle_, false);  // said now, to all
  throw MismatchError(
      context_of(*group_),
      options_.name() + ": before this backward, " + std::to_string(summary_->idle()) + " of " +
          std::to_string(summary_->active_ranks()) + " ranks (" +
          (was_idle ? "this one is one of them" : "not this one") +
          ") made a forward with all parameters frozen",
      "all ranks freeze the same parameters; a rank that looks at something alone calls forward of "
      "the wrapped module");
}

void ReducerState::explain(MismatchError& error) const {
  if (sets_.front().frozen() == 0 || !error.context().empty()) return;
  std::string names;
  std::size_t shown = 0;
  for (const Parameter& parameter : parameters_) {
    if (parameter.is_planned) continue;
    if (shown++ == kMostNames) {
      names += ", ...";
      break;
    }
    names += (names.empty() ? "'" : ", '") + parameter.name + "'";
  }
  error.add_context(options_.name() + ": this rank has frozen " + names +
                    "; all ranks freeze the same parameters before the same forward");
}

void ReducerState::wait_for_buckets() {
  for (const auto& bucket : buckets_) {
    bucket->wait();
    note_reduced();
  }
}

double ReducerState::factor() {
  if (!has_summary()) return 1;
  const int active = summary_->active_ranks();
  const auto ranks = static_cast<double>(group_->size());
  first_active_rank_ = summary_->first_active_rank();
  had_shadows_ = had_shadows_ || active < group_->size();
  if (options_.averaging() == GradientAveraging::ActiveRanks) return ranks / active;
  if (options_.averaging() == GradientAveraging::AllRanks) return 1;
  const auto total = static_cast<double>(summary_->total_samples());
  if (total == 0) return 1;
  const double factor = ranks * static_cast<double>(nominal_) / total;
  nominal_ = std::max<std::int64_t>(1, std::llround(total / active));
  return factor;
}

void ReducerState::add_late_gradients() {
  statistics_.late_parameters.clear();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (summary_->late(i) == 0) continue;
    Parameter& parameter = parameters_[i];
    statistics_.late_parameters.push_back(parameter.name);
    // In memory order, as the bucket's: ordinary memory, since this is rare.
    const at::Tensor late =
        parameter.is_planned
            ? at::zeros_like(bucket_of(parameter).view(parameter.place))
            : at::zeros_like(parameter.tensor, at::TensorOptions(shapes_[i].dtype));
    if (parameter.is_late && scale_ != 0) late.add_(parameter.aside, scale_);
    const auto scope = group_->with(CallOptions().name(call_name("late gradient")));
    group_->all_reduce(late, ReduceOp::Avg).wait();
    if (parameter.is_planned) {
      bucket_of(parameter).view(parameter.place).add_(late);
    } else {
      parameter.late = late;
    }
  }
}

void ReducerState::give_all(double factor) {
  if (factor != 1) {
    for (const auto& bucket : buckets_) bucket->multiply(factor);
  }
  statistics_.unused_parameters.clear();
  statistics_.locally_unused_parameters.clear();
  // Where no rank had a sample, there is no average either, and nothing that could be one.
  const bool has_samples = options_.averaging() != GradientAveraging::Samples || !has_summary() ||
                           summary_->total_samples() > 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    if (!parameter.is_planned) {
      if (!has_summary() || summary_->used(i) == 0) continue;
      if (!has_samples) {
        if (parameter.aside.defined()) parameter.tensor.mutable_grad() = parameter.aside;
        continue;
      }
      parameter.was_dense = summary_->used(i) > summary_->sparse(i);
      if (parameter.was_dense) parameter.late.mul_(factor);
      give(parameter, summary_->sparse(i) > 0 ? sparse_average(parameter, factor)
                                              : parameter.late.to(parameter.tensor.scalar_type()));
      continue;
    }
    note_usage(i);
    if (!parameter.was_used || !has_samples) {
      // Stays as it is, undefined as a rule, so that no optimizer moves it. If it was not taken, it
      // may be what another model that shares the parameter has made it.
      if (parameter.kept.defined()) parameter.tensor.mutable_grad() = parameter.kept;
    } else if (parameter.was_sparse) {
      give(parameter, sparse_average(parameter, factor));
    } else {
      give(parameter, bucket_of(parameter).average(parameter.place, parameter.tensor));
    }
  }
}

void ReducerState::note_usage(std::size_t index) {
  Parameter& parameter = parameters_[index];
  if (has_summary()) {
    // With a static graph there is no other summary, and the next time this model may be the one
    // that takes a shared parameter's gradient.
    parameter.was_used =
        summary_->used(index) > 0 || (options_.static_graph() && parameter.is_shared);
    parameter.was_sparse = summary_->sparse(index) > 0;
    parameter.was_dense = summary_->used(index) > summary_->sparse(index);
  }
  TORCH_CHECK(!parameter.is_used || parameter.was_used, "DistributedDataParallel: parameter '",
              parameter.name,
              "' has a gradient, and no rank had one in the first backward, which static_graph "
              "excludes");
  if (parameter.count > 0) parameter.expected = parameter.count;
  if (parameter.is_shared) return;
  if (!parameter.is_used) statistics_.locally_unused_parameters.push_back(parameter.name);
  if (!parameter.was_used) statistics_.unused_parameters.push_back(parameter.name);
}

void ReducerState::give(Parameter& parameter, const at::Tensor& average) {
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  const auto& listeners = parameter.listeners;
  const bool is_a_part = gradient.defined() && listeners && listeners->is_given_by_another(*this);
  // Dense before sparse, as an addition wants it.
  if (!is_a_part) {
    gradient = average;
  } else if (gradient.layout() == at::kStrided) {
    gradient = gradient.add(average);
  } else {
    gradient = average.add(gradient);
  }
  if (listeners) listeners->note_given(*this, backward_);
}

at::Tensor ReducerState::sparse_average(const Parameter& parameter, double factor) {
  const bool has_any = parameter.is_sparse && scale_ != 0;
  at::Tensor average =
      average_sparse(*group_, has_any ? parameter.aside : at::Tensor(), parameter.tensor, scale_);
  if (factor != 1) average = average.mul(factor);
  if (!parameter.was_dense) return average;
  const at::Tensor& dense =
      parameter.is_planned ? buckets_[parameter.bucket]->view(parameter.place) : parameter.late;
  return dense.to(average.scalar_type()).add(average);
}

void ReducerState::synchronize_buffers() {
  if (options_.buffer_sync() == BufferSync::Local) return;
  NamedTensors buffers = buffers_();
  if (buffers.empty()) return;
  // Without their version counters, as batch norm itself writes its running statistics: graphs of
  // other forwards hold those, and read them in evaluation only.
  for (auto& [name, buffer] : buffers) buffer = buffer.variable_data();
  if (options_.buffer_sync() == BufferSync::Broadcast) {
    return broadcast_tensors(*group_, buffers, first_active_rank_);
  }
  const bool is_active = !has_summary() || summary_->is_active(group_->rank());
  average_tensors(*group_, buffers, is_active, first_active_rank_);
}

void ReducerState::learn() {
  ++cycles_;
  sets_.front().end_cycle(*group_, first_active_rank_);
}

}  // namespace lockstep
