// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/reducer_state.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <utility>

#include "parallel/buckets/flat_bucket.h"

namespace lockstep {
namespace {

// Gradients of this parameter travel in this dtype.
at::ScalarType travelling_dtype(const at::Tensor& parameter,
                                const DistributedDataParallelOptions& options) {
  const at::ScalarType own = parameter.scalar_type();
  const auto wanted = options.reduce_dtype();
  const bool is_smaller =
      wanted && at::isFloatingType(own) && c10::elementSize(*wanted) < c10::elementSize(own);
  return is_smaller ? *wanted : own;
}

std::vector<GradientShape> shapes_of(const NamedTensors& parameters,
                                     const DistributedDataParallelOptions& options) {
  std::vector<GradientShape> shapes;
  for (const auto& [name, tensor] : parameters) {
    shapes.push_back({static_cast<std::size_t>(tensor.numel()), travelling_dtype(tensor, options),
                      tensor.device()});
  }
  return shapes;
}

}  // namespace

ReducerState::ReducerState(std::shared_ptr<ProcessGroup> group, NamedTensors parameters,
                           std::vector<bool> planned, std::function<NamedTensors()> buffers,
                           const DistributedDataParallelOptions& options,
                           std::shared_ptr<const std::atomic<int>> pauses,
                           DistributedDataParallelStatistics so_far)
    : group_(std::move(group)),
      buffers_(std::move(buffers)),
      options_(options),
      pauses_(std::move(pauses)),
      shapes_(shapes_of(parameters, options)),
      planned_(std::move(planned)),
      statistics_(std::move(so_far)) {
  for (auto& [name, tensor] : parameters) {
    parameters_.emplace_back();
    parameters_.back().name = std::move(name);
    parameters_.back().tensor = std::move(tensor);
  }
  allocate();
  summary_.emplace(*group_, parameters_.size());
  static_cast<void>(find_set());
  divide();
}

ReducerState::~ReducerState() {
  // A fork's copy has nothing in the ranks' memory.
  if (owner_.is_current()) vacate();
}

void ReducerState::reach(SampleCount::Output& output, bool is_for_parameters) {
  TORCH_CHECK(
      owner_.is_current(),
      "DistributedDataParallel: backward in a fork of the rank that wrapped the model, whose "
      "gradients lie in memory of the ranks; a child trains a model of its own");
  const std::lock_guard lock(mutex_);
  SampleCount::note_reached(output);
  if (!is_for_parameters) return;
  if (!is_paused()) return begin_locked();
  if (!samples_.has_counted(output)) samples_.count();
  open_arenas();
}

void ReducerState::begin_locked() {
  if (is_in_cycle_ && !backward_.expired()) return;
  if (is_in_cycle_) recover();
  // Runs when the graph that is being worked on now is done: the outermost one, if an output's hook
  // came first. A graph that throws drops the callback unrun, and with it the token.
  const auto token = std::make_shared<bool>(true);
  backward_ = token;
  begin_cycle(count_samples());
  if (had_idle_) summary_->add_idle();
  open_arenas();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this(), token] {
    if (const auto self = weak.lock()) self->finish();
  });
}

std::int64_t ReducerState::count_samples() {
  samples_.count();
  if (options_.averaging() != GradientAveraging::Samples) return 1;
  const auto samples = samples_.total();
  TORCH_CHECK(samples,
              "DistributedDataParallel: averaging by samples, but how many this backward is of is "
              "not known: it goes through no output of forward, or forward's first argument is no "
              "tensor of samples; call set_samples before backward");
  return *samples;
}

void ReducerState::begin_cycle(std::optional<std::int64_t> samples) {
  const at::NoGradGuard no_grad;
  is_in_cycle_ = true;
  cycle_begin_ = Clock::now();
  follow_set();
  if (hook_ && has_arena()) use_flat_memory();
  sets_.front().begin_cycle();
  scale_ = 1;
  if (options_.averaging() == GradientAveraging::Samples) {
    if (nominal_ == 0) {
      const auto most = at::full({1}, samples.value_or(0), at::kLong);
      group_->all_reduce(most, ReduceOp::Max).wait();
      nominal_ = std::max<std::int64_t>(1, most.item<std::int64_t>());
    }
    scale_ = static_cast<double>(samples.value_or(0)) / static_cast<double>(nominal_);
  }
  summary_->clear();
  summary_->set_samples(samples);
}

void ReducerState::on_gradient(std::size_t index, const at::Tensor& incoming) {
  // A fork that trains the wrapped module itself trains alone: the ranks' memory is not there.
  if (!owner_.is_current()) return;
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  Parameter& parameter = parameters_[index];
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
    TORCH_CHECK(!gradient.defined() || has_summary(), "DistributedDataParallel: parameter '",
                parameter.name, "' got a gradient, though it was frozen in the last forward, ",
                "which static_graph excludes");
    return;
  }
  ++parameter.count;
  if (bucket_of(parameter).is_launched()) {
    // Another gradient after those of earlier backwards: a part of the model runs several times
    // within this one. It is reduced once more, at the end.
    const bool is_late = gradient.defined() && !parameter.is_sparse;
    TORCH_CHECK(!is_late || has_summary(), "DistributedDataParallel: parameter '", parameter.name,
                "' got more gradients than in the first backward, which static_graph excludes");
    parameter.is_late = parameter.is_late || is_late;
    if (gradient.defined()) set_aside(parameter);
  } else if (parameter.count >= parameter.expected) {
    take(parameter, incoming);
    note_ready(index);
  }
  group_->progress();
  note_reduced();
}

void ReducerState::on_gradient_of_another(std::size_t index) {
  const std::lock_guard lock(mutex_);
  if (is_paused() || !is_in_cycle_ || backward_.expired()) return;
  const at::NoGradGuard no_grad;
  Parameter& parameter = parameters_[index];
  parameter.is_shared = true;
  if (!parameter.is_planned) return;
  ++parameter.count;
  if (!bucket_of(parameter).is_launched() && parameter.count >= parameter.expected) {
    bucket_of(parameter).take_nothing(parameter.place);
    note_ready(index);
  }
  group_->progress();
  note_reduced();
}

void ReducerState::note_ready(std::size_t index) {
  sets_.front().note_ready(index);
  launch_complete_buckets();
}

ReducerState::Claim ReducerState::claim() {
  const std::lock_guard lock(mutex_);
  using Reason = Claim::Reason;
  if (is_paused()) {
    if (!accumulation_.expired()) return {Reason::PausedReached, {}};
    return {samples_.has_hidden() ? Reason::PausedHidden : Reason::Paused, {}};
  }
  if (is_in_cycle_ && !backward_.expired()) return {Reason::Reached, cycle_begin_};
  return {samples_.has_hidden() ? Reason::Hidden : Reason::Idle, {}};
}

void ReducerState::note_reduced() {
  for (; let_go_ < launched_ && buckets_[let_go_]->is_reduced(); ++let_go_) {
    const GradientBucket& bucket = *buckets_[let_go_];
    const auto now = Clock::now();
    if (sets_.front().is_measuring()) {
      sets_.front().note_reduced(bucket.bytes(), std::max(bucket.launched_at(), last_reduced_),
                                 now);
    }
    last_reduced_ = now;
  }
}

void ReducerState::take(Parameter& parameter, const at::Tensor& incoming) {
  const at::Tensor& gradient = parameter.tensor.grad();
  GradientBucket& bucket = bucket_of(parameter);
  const bool has_taken = bucket.has_taken(parameter.place);
  // Nothing has come in this cycle; or what has come is of no samples, and is dropped if others
  // have some.
  const bool may_stay = (!parameter.is_used || scale_ == 0) && !has_taken;
  if (may_stay) parameter.kept = gradient;
  const bool is_sparse = gradient.defined() && gradient.layout() != at::kStrided && !has_taken;
  if (parameter.is_sparse || is_sparse) {
    parameter.is_sparse = true;
    if (gradient.defined()) set_aside(parameter);
    return bucket.take_nothing(parameter.place);
  }
  bucket.take(parameter.place, parameter.tensor, scale_, incoming, may_stay);
}

void ReducerState::set_aside(Parameter& parameter) {
  at::Tensor& gradient = parameter.tensor.mutable_grad();
  at::Tensor& aside = parameter.aside;
  if (!aside.defined()) {
    aside = gradient;
  } else if (aside.layout() != at::kStrided && gradient.layout() == at::kStrided) {
    aside = aside.add(gradient.to_sparse(aside.sparse_dim()));
  } else {
    aside = aside.add(gradient);
  }
  gradient.reset();
}

void ReducerState::launch_complete_buckets() {
  while (launched_ < buckets_.size() && buckets_[launched_]->is_complete()) {
    if (launched_ == 0) first_launch_ = Clock::now();
    try {
      launch(*buckets_[launched_]);
    } catch (MismatchError& error) {
      explain(error);
      throw;
    }
    ++launched_;
  }
}

void ReducerState::launch(GradientBucket& bucket) {
  if (!hook_) return bucket.launch(*group_);
  std::vector<at::Tensor> tensors;
  for (const std::size_t index : bucket.parameters()) tensors.push_back(parameters_[index].tensor);
  auto& whole = dynamic_cast<FlatBucket&>(bucket);  // as it is since `use_flat_memory`
  whole.launch(
      *group_, hook_,
      GradientBucketView(launched_, launched_ + 1 == buckets_.size(), sets_.front().number(),
                         whole.flat(), whole.parts(), std::move(tensors)));
}

void ReducerState::recover() {
  for (const auto& bucket : buckets_) {
    if (bucket->is_launched()) bucket->wait();
  }
  SampleCount samples = std::move(samples_);  // the same outputs may get another backward
  reset();
  samples.forget_counted();
  samples_ = std::move(samples);
}

void ReducerState::reset() noexcept {
  close_arenas();
  for (const auto& bucket : buckets_) bucket->reset();
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->end_cycle();
  }
  for (Parameter& parameter : parameters_) {
    parameter.count = 0;
    parameter.is_sparse = parameter.is_late = parameter.is_used = parameter.is_shared = false;
    parameter.aside.reset();
    parameter.kept.reset();
    parameter.late.reset();
  }
  launched_ = let_go_ = 0;
  samples_.clear();
  is_in_cycle_ = false;
}

void ReducerState::settle() noexcept {
  const auto end = [this](const auto& wait) {
    try {
      wait();
    } catch (...) {  // the first error is on its way
      has_failed_ = true;
    }
  };
  for (const auto& bucket : buckets_) {
    if (bucket->is_launched()) end([&] { bucket->wait(); });
  }
  if (summary_->is_launched()) end([&] { summary_->wait(*group_); });
  reset();
}

void ReducerState::begin_forward(std::optional<std::int64_t> samples) {
  const std::lock_guard lock(mutex_);
  if (is_in_cycle_ && backward_.expired()) {
    recover();
    samples_.clear();
  }
  samples_.begin_forward(samples);
}

void ReducerState::end_forward() {
  const std::lock_guard lock(mutex_);
  samples_.end_forward();
}

void ReducerState::show(const at::Tensor& output) {
  const std::lock_guard lock(mutex_);
  samples_.show(output);
}

std::shared_ptr<SampleCount::Output> ReducerState::watch(const at::Tensor& output) {
  const std::lock_guard lock(mutex_);
  return samples_.watch(output);
}

void ReducerState::set_listeners(std::size_t index, std::shared_ptr<ParameterListeners> listeners) {
  const std::lock_guard lock(mutex_);
  parameters_[index].listeners = std::move(listeners);
}

void ReducerState::set_samples(std::int64_t samples) {
  const std::lock_guard lock(mutex_);
  samples_.say(samples);
}

void ReducerState::set_hook(CommunicationHook hook) {
  const std::lock_guard lock(mutex_);
  TORCH_CHECK(!is_in_cycle_ || backward_.expired(),
              "DistributedDataParallel: a communication hook cannot change during backward");
  hook_ = std::move(hook);
}

int ReducerState::first_active_rank() {
  const std::lock_guard lock(mutex_);
  return first_active_rank_;
}

bool ReducerState::take_had_shadows() {
  const std::lock_guard lock(mutex_);
  had_idle_ = false;  // ranks had different numbers of steps
  return std::exchange(had_shadows_, false);
}

std::vector<std::size_t> ReducerState::bucket_bytes() {
  const std::lock_guard lock(mutex_);
  std::vector<std::size_t> bytes;
  for (const auto& bucket : buckets_) bytes.push_back(bucket->bytes());
  return bytes;
}

std::uint64_t ReducerState::steps() {
  const std::lock_guard lock(mutex_);
  return statistics_.steps;
}

DistributedDataParallelStatistics ReducerState::statistics() {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace lockstep
