// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reducer.h"

#include <ATen/core/grad_mode.h>
#include <lockstep/core/error.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <utility>

#include "parallel/ddp/rebuild_buckets.h"

namespace lockstep {

Reducer::Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                 std::vector<bool> needed, std::function<NamedTensors()> buffers,
                 const DistributedDataParallelOptions& options,
                 std::shared_ptr<const std::atomic<int>> pauses,
                 DistributedDataParallelStatistics so_far)
    : group_(std::move(group)),
      options_(options),
      pauses_(std::move(pauses)),
      statistics_(std::move(so_far)),
      storage_(*group_, tensors_in(parameters), options_),
      parameters_(make_reduced_parameters(parameters, storage_.shapes())),
      assignments_(names_in(parameters), storage_.shapes(), options_, std::move(needed),
                   storage_.has_arena()),
      buckets_(*group_, assignments_, storage_.parameters()),
      iteration_(context(), std::move(buffers)),
      intake_(context(), iteration_) {
  rebuild_buckets(context(), storage_);
}

ReducerContext Reducer::context() {
  return {*this, *group_, options_, parameters_, assignments_, buckets_, statistics_};
}

Reducer::~Reducer() {
  // A fork's copy has nothing in the ranks' memory.
  if (!owner_.is_current()) return;
  storage_.vacate_arenas();
  buckets_.vacate_if_possible();
}

// --- a forward ---

void Reducer::begin_forward(std::optional<std::int64_t> samples) {
  const std::lock_guard lock(mutex_);
  leave_abandoned();
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

// --- its backward begins ---

void Reducer::reach(SampleCount::Output& output, bool is_for_parameters) {
  TORCH_CHECK(
      owner_.is_current(),
      "DistributedDataParallel: backward in a fork of the rank that wrapped the model, whose "
      "gradients lie in memory of the ranks; a child trains a model of its own");
  const std::lock_guard lock(mutex_);
  SampleCount::note_reached(output);
  if (!is_for_parameters) return;
  if (!is_paused()) return begin_backward();
  if (!samples_.has_counted(output)) samples_.count();
  storage_.open();
}

void Reducer::begin_backward() {
  if (iteration_.is_live()) return;
  if (iteration_.has_begun()) recover();
  // Runs when the graph that is being worked on now is done: the outermost one, if an output's hook
  // came first. A graph that throws drops the callback unrun, and with it the token.
  const auto token = std::make_shared<bool>(true);
  iteration_.belong_to(token);
  samples_.count();
  begin_iteration(samples_.weight(options_.averaging()));
  iteration_.tell_idle();
  storage_.open();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this(), token] {
    if (const auto self = weak.lock()) self->finish();
  });
}

void Reducer::begin_iteration(std::optional<std::int64_t> samples) {
  const at::NoGradGuard no_grad;
  iteration_.note_begin();
  const bool is_in_place = storage_.has_arena() && !buckets_.has_hook();
  if (assignments_.follow(is_in_place)) rebuild_buckets(context(), storage_);
  if (buckets_.has_hook() && storage_.has_arena()) use_flat_memory();
  iteration_.prepare(samples);
}

void Reducer::use_flat_memory() {
  storage_.use_flat_memory();
  buckets_.vacate_if_possible();
  rebuild_buckets(context(), storage_);
}

// --- gradients come ---

Reducer::Claim Reducer::claim() {
  const std::lock_guard lock(mutex_);
  using Reason = Claim::Reason;
  if (is_paused()) {
    if (storage_.is_open()) return {Reason::PausedReached, {}};
    return {samples_.has_hidden() ? Reason::PausedHidden : Reason::Paused, {}};
  }
  if (iteration_.is_live()) return {Reason::Reached, iteration_.begin()};
  return {samples_.has_hidden() ? Reason::Hidden : Reason::Idle, {}};
}

void Reducer::on_gradient(std::size_t index, const at::Tensor& incoming) {
  // A fork that trains the wrapped module itself trains alone: the ranks' memory is not there.
  if (!owner_.is_current()) return;
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  ReducedParameter& parameter = parameters_[index];
  parameter.check_gradient(incoming, is_paused());
  if (is_paused()) return intake_.note_waiting(parameter, incoming);
  begin_backward();
  if (intake_.collect(parameter, incoming)) note_ready(index);
  note_progress();
}

void Reducer::on_gradient_of_another(std::size_t index) {
  const std::lock_guard lock(mutex_);
  if (!iteration_.is_live()) return;
  const at::NoGradGuard no_grad;
  if (intake_.skip_gradient_of_another(parameters_[index])) note_ready(index);
  note_progress();
}

void Reducer::note_ready(std::size_t index) {
  assignments_.current().note_ready(index);
  buckets_.launch_complete();
}

void Reducer::note_progress() {
  group_->progress();
  buckets_.note_reduced();
}

// --- the outermost backward ends ---

void Reducer::finish() {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  complete_by([this] { return complete_iteration(); });
}

bool Reducer::shadow(const std::shared_ptr<bool>& round) {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  if (iteration_.has_begun()) recover();
  return complete_by([&] {
    begin_iteration(std::nullopt);
    iteration_.belong_to(round);
    intake_.collect_zeros();
    return complete_iteration();
  });
}

bool Reducer::complete_iteration() {
  const auto end_of_backward = std::chrono::steady_clock::now();
  storage_.close();
  intake_.collect_rest();
  buckets_.launch_complete();
  const bool has_data = iteration_.complete(end_of_backward);
  reset();
  return has_data;
}

template <typename Function>
bool Reducer::complete_by(const Function& complete) {
  try {
    return complete();
  } catch (MismatchError& error) {
    assignments_.explain(error);
    finish_in_flight();
    throw;
  } catch (...) {
    finish_in_flight();
    throw;
  }
}

void Reducer::recover() {
  buckets_.wait_for_launched();
  SampleCount samples = std::move(samples_);  // the same outputs may get another backward
  reset();
  samples.forget_counted();
  samples_ = std::move(samples);
}

void Reducer::leave_abandoned() {
  if (!iteration_.is_abandoned()) return;
  recover();
  samples_.forget_said();
}

void Reducer::finish_in_flight() noexcept {
  const bool have_buckets = buckets_.finish_in_flight();
  const bool has_summary = iteration_.finish_in_flight();
  if (!have_buckets || !has_summary) storage_.note_failure();
  reset();
}

void Reducer::reset() noexcept {
  storage_.close();
  buckets_.reset();
  storage_.end_iteration();
  for (ReducedParameter& parameter : parameters_) parameter.reset();
  samples_.clear();
  iteration_.reset();
}

// --- settings, and what passes from a reducer to the next ---

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
  TORCH_CHECK(!iteration_.is_live(),
              "DistributedDataParallel: a communication hook cannot change during backward");
  buckets_.set_hook(std::move(hook));
}

void Reducer::set_needed(std::vector<bool> needed) {
  const std::lock_guard lock(mutex_);
  assignments_.set_needed(std::move(needed));
}

void Reducer::note_idle() {
  const std::lock_guard lock(mutex_);
  iteration_.note_idle();
}

void Reducer::share_values(const NamedTensors& tensors) {
  const std::lock_guard lock(mutex_);
  iteration_.values().share(tensors);
}

bool Reducer::has_waiting() {
  const std::lock_guard lock(mutex_);
  return std::any_of(parameters_.begin(), parameters_.end(),
                     [](const ReducedParameter& parameter) { return parameter.is_waiting(); });
}

UnfinishedReduction Reducer::unfinished() {
  const std::lock_guard lock(mutex_);
  leave_abandoned();
  return {waiting_in(parameters_), iteration_.values().shared(), samples_};
}

void Reducer::take_over(const UnfinishedReduction& unfinished) {
  const std::lock_guard lock(mutex_);
  set_waiting(parameters_, unfinished.waiting);
  iteration_.values().share(unfinished.shared);
  samples_ = unfinished.samples;
}

// --- checkpoints ---

ReducerState Reducer::state() {
  const std::lock_guard lock(mutex_);
  ReducerState state{{}, iteration_.weights().nominal(), assignments_.saved(statistics_.plan)};
  for (const ReducedParameter& parameter : parameters_) {
    state.expected.push_back(parameter.expected);
  }
  return state;
}

void Reducer::prepare_to_restore() {
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(!iteration_.is_live(),
              "DistributedDataParallel: a state cannot be loaded during backward");
  leave_abandoned();
  const auto waiting = std::find_if(parameters_.begin(), parameters_.end(),
                                    [](const auto& parameter) { return parameter.is_waiting(); });
  TORCH_CHECK(waiting == parameters_.end(), "DistributedDataParallel: the gradient of parameter '",
              waiting->name,
              "' waits for its average (no_sync), and belongs to other values of the parameters "
              "than the state; call zero_grad() before a state is loaded");
}

void Reducer::restore(const ReducerState& state) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].expected = state.expected[i];
  }
  iteration_.weights().set_nominal(state.usual_samples);
  assignments_.restore(state.assignments, storage_.has_arena());
  statistics_.plan = state.assignments.plan;
}

// --- what happened so far ---

int Reducer::first_active_rank() {
  const std::lock_guard lock(mutex_);
  return iteration_.first_active_rank();
}

bool Reducer::take_had_shadows() {
  const std::lock_guard lock(mutex_);
  return iteration_.take_had_shadows();
}

void Reducer::vacate_buckets() {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  buckets_.vacate();
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
  DistributedDataParallelStatistics statistics = statistics_;
  // Buckets know their moments, so that a step need not write them down. There are none after an
  // error while they were made.
  for (std::size_t i = 0; i < statistics.buckets.size() && i < buckets_.size(); ++i) {
    statistics.buckets[i].launched = buckets_.at(i).launched_at();
    statistics.buckets[i].reduced = buckets_.at(i).reduced_at();
  }
  return statistics;
}

}  // namespace lockstep
