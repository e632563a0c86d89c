// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reducer.h"

#include <ATen/core/grad_mode.h>
#include <lockstep/core/error.h>
#include <torch/csrc/autograd/engine.h>

#include <string>
#include <utility>

namespace lockstep {
namespace {

std::vector<at::Tensor> tensors_in(const NamedTensors& parameters) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : parameters) tensors.push_back(tensor);
  return tensors;
}

std::vector<std::string> names_in(const NamedTensors& parameters) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parameters) names.push_back(name);
  return names;
}

std::vector<ReducedParameter> reduced_parameters(const NamedTensors& parameters) {
  std::vector<ReducedParameter> reduced(parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    reduced[i].name = parameters[i].first;
    reduced[i].tensor = parameters[i].second;
  }
  return reduced;
}

}  // namespace

Reducer::Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                 std::vector<bool> planned, std::function<NamedTensors()> buffers,
                 const DistributedDataParallelOptions& options,
                 std::shared_ptr<const std::atomic<int>> pauses,
                 DistributedDataParallelStatistics so_far)
    : group_(std::move(group)),
      options_(options),
      pauses_(std::move(pauses)),
      parameters_(reduced_parameters(parameters)),
      statistics_(std::move(so_far)),
      storage_(*group_, tensors_in(parameters), options_),
      assignment_(names_in(parameters), storage_.shapes(), options_, std::move(planned),
                  storage_.has_arena()),
      buckets_(*group_, assignment_, storage_.parameters()),
      cycle_(context(), std::move(buffers)),
      intake_(context(), cycle_) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].dtype = storage_.shapes()[i].dtype;
  }
  divide();
}

ReducerContext Reducer::context() {
  return {*this, *group_, options_, parameters_, assignment_, buckets_, statistics_};
}

Reducer::~Reducer() {
  // A fork's copy has nothing in the ranks' memory.
  if (!owner_.is_current()) return;
  storage_.vacate_arenas();
  buckets_.vacate_if_possible();
}

void Reducer::reach(SampleCount::Output& output, bool is_for_parameters) {
  TORCH_CHECK(
      owner_.is_current(),
      "DistributedDataParallel: backward in a fork of the rank that wrapped the model, whose "
      "gradients lie in memory of the ranks; a child trains a model of its own");
  const std::lock_guard lock(mutex_);
  SampleCount::note_reached(output);
  if (!is_for_parameters) return;
  if (!is_paused()) return begin_locked();
  if (!samples_.has_counted(output)) samples_.count();
  storage_.open();
}

void Reducer::begin_locked() {
  if (cycle_.is_live()) return;
  if (cycle_.has_begun()) recover();
  // Runs when the graph that is being worked on now is done: the outermost one, if an output's hook
  // came first. A graph that throws drops the callback unrun, and with it the token.
  const auto token = std::make_shared<bool>(true);
  cycle_.belong_to(token);
  begin_cycle(count_samples());
  cycle_.tell_idle();
  storage_.open();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this(), token] {
    if (const auto self = weak.lock()) self->finish();
  });
}

std::int64_t Reducer::count_samples() {
  samples_.count();
  if (options_.averaging() != GradientAveraging::Samples) return 1;
  const auto samples = samples_.total();
  TORCH_CHECK(samples,
              "DistributedDataParallel: averaging by samples, but how many this backward is of is "
              "not known: it goes through no output of forward, or forward's first argument is no "
              "tensor of samples; call set_samples before backward");
  return *samples;
}

void Reducer::begin_cycle(std::optional<std::int64_t> samples) {
  const at::NoGradGuard no_grad;
  cycle_.note_begin();
  if (assignment_.follow(storage_.has_arena())) divide();
  if (buckets_.has_hook() && storage_.has_arena()) use_flat_memory();
  cycle_.prepare(samples);
}

void Reducer::use_flat_memory() {
  storage_.use_flat_memory();
  buckets_.vacate_if_possible();
  divide();
}

void Reducer::divide() {
  const at::NoGradGuard no_grad;
  PlannedSet& set = assignment_.set();
  // Gradients that lie side by side would be written over.
  buckets_.vacate();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].is_planned = set.members()[i];
  }
  buckets_.clear();
  buckets_.fill(storage_.make_buckets(set.plans(), assignment_.bucket_names()));
  statistics_.buckets.clear();
  for (const BucketPlan& plan : set.plans()) {
    const std::size_t bucket = statistics_.buckets.size();
    auto& described = statistics_.buckets.emplace_back();
    described.bytes = buckets_.at(bucket).bytes();
    for (std::size_t place = 0; place < plan.parameters.size(); ++place) {
      ReducedParameter& parameter = parameters_[plan.parameters[place]];
      parameter.bucket = bucket;
      parameter.place = place;
      described.parameters.push_back(parameter.name);
    }
  }
  if (set.number() == 0) set.set_number(++statistics_.plan);
  statistics_.plan_reason = set.reason();
}

void Reducer::on_gradient(std::size_t index, const at::Tensor& incoming) {
  // A fork that trains the wrapped module itself trains alone: the ranks' memory is not there.
  if (!owner_.is_current()) return;
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  ReducedParameter& parameter = parameters_[index];
  const at::Tensor& gradient = parameter.tensor.grad();
  TORCH_CHECK(!gradient.defined() || !gradient.requires_grad(),
              "DistributedDataParallel: the gradient of parameter '", parameter.name,
              "' has a graph of its own (backward with create_graph); averages cannot be "
              "differentiated. Use torch::autograd::grad for the inner derivative");
  TORCH_CHECK(gradient.defined() || !incoming.defined() || is_paused(),
              "DistributedDataParallel: something took the gradient of parameter '", parameter.name,
              "' away before it could be averaged, as an optimizer that steps in a hook does; step "
              "when backward is over");
  if (!is_paused()) begin_locked();
  if (gradient.defined()) parameter.is_used = true;
  if (is_paused()) {
    if (gradient.defined() && parameter.is_planned) {
      bucket_of(parameter).note_waiting(parameter.place, gradient, incoming);
    }
    return;
  }
  if (!parameter.is_planned) {
    TORCH_CHECK(!gradient.defined() || cycle_.has_summary(), "DistributedDataParallel: parameter '",
                parameter.name, "' got a gradient, though it was frozen in the last forward, ",
                "which static_graph excludes");
    return;
  }
  ++parameter.count;
  if (bucket_of(parameter).is_launched()) {
    intake_.take_late(parameter);
  } else if (parameter.count >= parameter.expected) {
    intake_.take(parameter, incoming);
    note_ready(index);
  }
  note_progress();
}

void Reducer::on_gradient_of_another(std::size_t index) {
  const std::lock_guard lock(mutex_);
  if (is_paused() || !cycle_.is_live()) return;
  const at::NoGradGuard no_grad;
  ReducedParameter& parameter = parameters_[index];
  parameter.is_shared = true;
  if (!parameter.is_planned) return;
  ++parameter.count;
  if (!bucket_of(parameter).is_launched() && parameter.count >= parameter.expected) {
    bucket_of(parameter).take_nothing(parameter.place);
    note_ready(index);
  }
  note_progress();
}

void Reducer::note_ready(std::size_t index) {
  assignment_.set().note_ready(index);
  buckets_.launch_complete();
}

void Reducer::note_progress() {
  group_->progress();
  buckets_.note_reduced();
}

Reducer::Claim Reducer::claim() {
  const std::lock_guard lock(mutex_);
  using Reason = Claim::Reason;
  if (is_paused()) {
    if (storage_.is_open()) return {Reason::PausedReached, {}};
    return {samples_.has_hidden() ? Reason::PausedHidden : Reason::Paused, {}};
  }
  if (cycle_.is_live()) return {Reason::Reached, cycle_.begin()};
  return {samples_.has_hidden() ? Reason::Hidden : Reason::Idle, {}};
}

template <typename Function>
bool Reducer::complete_by(const Function& complete) {
  try {
    return complete();
  } catch (MismatchError& error) {
    assignment_.explain(error);
    finish_in_flight();
    throw;
  } catch (...) {
    finish_in_flight();
    throw;
  }
}

void Reducer::finish() {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  complete_by([this] { return complete_cycle(); });
}

bool Reducer::shadow(const std::shared_ptr<bool>& round) {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  if (cycle_.has_begun()) recover();
  return complete_by([&] {
    begin_cycle(std::nullopt);
    cycle_.belong_to(round);
    intake_.take_zeros();
    return complete_cycle();
  });
}

bool Reducer::complete_cycle() {
  const auto end_of_backward = Clock::now();
  storage_.close();
  intake_.take_what_is_left();
  buckets_.launch_complete();
  const bool has_data = cycle_.complete(end_of_backward);
  reset();
  return has_data;
}

void Reducer::recover() {
  buckets_.wait_for_launched();
  SampleCount samples = std::move(samples_);  // the same outputs may get another backward
  reset();
  samples.forget_counted();
  samples_ = std::move(samples);
}

void Reducer::finish_in_flight() noexcept {
  const bool have_buckets = buckets_.finish_in_flight();
  const bool has_summary = cycle_.finish_in_flight();
  if (!have_buckets || !has_summary) storage_.note_failure();
  reset();
}

void Reducer::reset() noexcept {
  storage_.close();
  buckets_.reset();
  storage_.end_cycle();
  for (ReducedParameter& parameter : parameters_) parameter.reset();
  samples_.clear();
  cycle_.reset();
}

void Reducer::begin_forward(std::optional<std::int64_t> samples) {
  const std::lock_guard lock(mutex_);
  if (cycle_.is_abandoned()) {
    recover();
    samples_.clear();
  }
  samples_.begin_forward(samples);
}

void Reducer::end_forward() {
  const std::lock_guard lock(mutex_);
  samples_.end_forward();
}

void Reducer::show(const at::Tensor& output) {
  const std::lock_guard lock(mutex_);
  samples_.show(output);
}

std::shared_ptr<SampleCount::Output> Reducer::watch(const at::Tensor& output) {
  const std::lock_guard lock(mutex_);
  return samples_.watch(output);
}

void Reducer::set_listeners(std::size_t index, std::shared_ptr<ParameterListeners> listeners) {
  const std::lock_guard lock(mutex_);
  parameters_[index].listeners = std::move(listeners);
}

void Reducer::set_samples(std::int64_t samples) {
  const std::lock_guard lock(mutex_);
  samples_.say(samples);
}

void Reducer::set_hook(CommunicationHook hook) {
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(!cycle_.is_live(),
              "DistributedDataParallel: a communication hook cannot change during backward");
  buckets_.set_hook(std::move(hook));
}

void Reducer::plan_for(std::vector<bool> planned) {
  const std::lock_guard lock(mutex_);
  assignment_.want(std::move(planned));
}

void Reducer::note_idle() {
  const std::lock_guard lock(mutex_);
  cycle_.note_idle();
}

std::vector<bool> Reducer::waiting() {
  const std::lock_guard lock(mutex_);
  std::vector<bool> result;
  for (const ReducedParameter& parameter : parameters_) {
    result.push_back(parameter.is_used && parameter.tensor.grad().defined());
  }
  return result;
}

void Reducer::set_waiting(const std::vector<bool>& waiting) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].is_used = waiting[i];
}

void Reducer::share_values(NamedTensors tensors) {
  const std::lock_guard lock(mutex_);
  cycle_.values().share(std::move(tensors));
}

NamedTensors Reducer::shared_values() {
  const std::lock_guard lock(mutex_);
  return cycle_.values().shared();
}

SampleCount Reducer::sample_count() {
  const std::lock_guard lock(mutex_);
  return samples_;
}

void Reducer::set_sample_count(SampleCount samples) {
  const std::lock_guard lock(mutex_);
  samples_ = std::move(samples);
}

int Reducer::first_active_rank() {
  const std::lock_guard lock(mutex_);
  return cycle_.first_active_rank();
}

bool Reducer::take_had_shadows() {
  const std::lock_guard lock(mutex_);
  return cycle_.take_had_shadows();
}

std::vector<std::size_t> Reducer::bucket_bytes() {
  const std::lock_guard lock(mutex_);
  return buckets_.bytes();
}

std::uint64_t Reducer::steps() {
  const std::lock_guard lock(mutex_);
  return statistics_.steps;
}

DistributedDataParallelStatistics Reducer::statistics() {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace lockstep
