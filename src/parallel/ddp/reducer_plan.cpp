// SPDX-License-Identifier: BSD-3-Clause
// Which parameters are in buckets at present, and in which.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "parallel/ddp/reducer_state.h"

namespace lockstep {
namespace {

// Of buckets that are reduced where they are: the last one of a backward is waited for, and the
// smaller it is, the shorter.
constexpr std::size_t kInPlaceCap = std::size_t{8} << 20;

// A program that freezes at random makes ever new ones.
constexpr std::size_t kMostSets = 16;

PlanLearner::Settings settings_of(const DistributedDataParallelOptions& options, bool is_in_place) {
  PlanLearner::Settings settings;
  settings.caps = options.bucket_caps_bytes();
  if (settings.caps.empty()) {
    const std::size_t cap = is_in_place ? std::min(options.bucket_cap_bytes(), kInPlaceCap)
                                        : options.bucket_cap_bytes();
    settings.caps = {std::min(options.first_bucket_cap_bytes(), cap), cap};
  }
  settings.learns_order = options.learn_order();
  settings.tune_after = options.tune_buckets_after();
  return settings;
}

}  // namespace

void ReducerState::plan_for(std::vector<bool> planned) {
  const std::lock_guard lock(mutex_);
  planned_ = std::move(planned);
}

void ReducerState::note_idle() {
  const std::lock_guard lock(mutex_);
  had_idle_ = true;
}

std::vector<bool> ReducerState::waiting() {
  const std::lock_guard lock(mutex_);
  std::vector<bool> result;
  for (const Parameter& parameter : parameters_) {
    result.push_back(parameter.is_used && parameter.tensor.grad().defined());
  }
  return result;
}

void ReducerState::set_waiting(const std::vector<bool>& waiting) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].is_used = waiting[i];
}

void ReducerState::share_values(NamedTensors tensors) {
  const std::lock_guard lock(mutex_);
  shared_ = std::move(tensors);
}

NamedTensors ReducerState::shared_values() {
  const std::lock_guard lock(mutex_);
  return shared_;
}

SampleCount ReducerState::sample_count() {
  const std::lock_guard lock(mutex_);
  return samples_;
}

void ReducerState::set_sample_count(SampleCount samples) {
  const std::lock_guard lock(mutex_);
  samples_ = std::move(samples);
}

void ReducerState::follow_set() {
  const auto before = sets_.front().number();
  is_other_set_ = planned_ != sets_.front().members();
  PlannedSet& set = find_set();
  set.take_proposal();
  if (set.number() != before) divide();
}

PlannedSet& ReducerState::find_set() {
  auto set = std::find_if(sets_.begin(), sets_.end(),
                          [&](const PlannedSet& known) { return known.members() == planned_; });
  if (set == sets_.end()) {
    if (sets_.size() == kMostSets) sets_.pop_back();
    set = sets_.emplace(sets_.begin(), shapes_, planned_, settings_of(options_, has_arena()));
  }
  sets_.splice(sets_.begin(), sets_, set);
  return sets_.front();
}

void ReducerState::divide() {
  const at::NoGradGuard no_grad;
  PlannedSet& set = sets_.front();
  // Gradients that lie side by side would be written over.
  for (const auto& bucket : buckets_) bucket->vacate();
  std::vector<at::Tensor> tensors;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    parameter.is_planned = set.members()[i];
    tensors.push_back(parameter.tensor);
  }
  buckets_.clear();
  statistics_.buckets.clear();
  std::vector<std::int64_t> used(memories_.size(), 0);
  for (const BucketPlan& plan : set.plans()) {
    buckets_.push_back(make_bucket(plan, used, tensors));
    auto& described = statistics_.buckets.emplace_back();
    described.bytes = buckets_.back()->bytes();
    for (std::size_t place = 0; place < plan.parameters.size(); ++place) {
      Parameter& parameter = parameters_[plan.parameters[place]];
      parameter.bucket = buckets_.size() - 1;
      parameter.place = place;
      described.parameters.push_back(parameter.name);
    }
  }
  if (set.number() == 0) set.set_number(++statistics_.plan);
  statistics_.plan_reason = set.reason();
}

std::string ReducerState::call_name(const std::string& what) const {
  const PlannedSet& set = sets_.front();
  if (set.frozen() == 0) return options_.name() + ": " + what;
  // Names are compared whole, also where they are too long to be shown.
  return options_.name() + ", " + std::to_string(set.frozen()) + " frozen: " + what + " of set " +
         std::to_string(set.hash());
}

}  // namespace lockstep
