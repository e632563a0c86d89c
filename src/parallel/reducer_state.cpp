// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/reducer_state.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <utility>

#include "parallel/lending_allocator.h"

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

// Of buckets that are reduced where they are: the last one of a backward is waited for, and the
// smaller it is, the shorter.
constexpr std::size_t kInPlaceCap = std::size_t{8} << 20;

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
                           NamedTensors buffers, const DistributedDataParallelOptions& options,
                           std::shared_ptr<const std::atomic<int>> pauses,
                           DistributedDataParallelStatistics so_far)
    : group_(std::move(group)),
      buffers_(std::move(buffers)),
      options_(options),
      pauses_(std::move(pauses)),
      shapes_(shapes_of(parameters, options)),
      statistics_(std::move(so_far)) {
  for (auto& [name, tensor] : parameters) {
    parameters_.emplace_back();
    parameters_.back().name = std::move(name);
    parameters_.back().tensor = std::move(tensor);
  }
  allocate();
  summary_.emplace(*group_, parameters_.size());
  learner_.emplace(shapes_, settings_of(options_, has_arena()));
  plan_ = learner_->first();
  divide();
}

void ReducerState::allocate() {
  for (std::size_t i = 0; i < shapes_.size(); ++i) {
    const auto is_alike = [&](const Memory& memory) {
      return memory.dtype == shapes_[i].dtype && memory.device == shapes_[i].device;
    };
    auto memory = std::find_if(memories_.begin(), memories_.end(), is_alike);
    if (memory == memories_.end()) {
      memory = memories_.emplace(memories_.end());
      memory->dtype = shapes_[i].dtype;
      memory->device = shapes_[i].device;
    }
    memory->parameters.push_back(i);
  }
  for (Memory& memory : memories_) {
    std::string obstacle;
    if (allocate_arena(memory, obstacle)) continue;
    allocate_flat(memory);
    if (obstacle.empty()) continue;
    logging::warning(
        "DistributedDataParallel: gradients will be copied, since there is no memory to make them "
        "in, with some to spare: " +
        obstacle);
  }
}

bool ReducerState::allocate_arena(Memory& memory, std::string& obstacle) {
  const auto travels_as_it_is = [&](std::size_t i) {
    return parameters_[i].tensor.scalar_type() == memory.dtype;
  };
  if (!options_.gradients_in_group_memory() || !memory.device.is_cpu() ||
      !std::all_of(memory.parameters.begin(), memory.parameters.end(), travels_as_it_is)) {
    return false;
  }
  memory.places = group_->allocate({static_cast<std::int64_t>(memory.parameters.size())},
                                   at::TensorOptions(at::kLong));
  if (!group_->can_reduce_pieces(memory.places)) {
    memory.places.reset();
    return false;
  }
  std::vector<std::size_t> gradients;
  memory.numbers.resize(parameters_.size());
  for (const std::size_t i : memory.parameters) {
    memory.numbers[i] = gradients.size();
    gradients.push_back(shapes_[i].bytes());
  }
  const auto division = GradientArena::divide(gradients);
  const std::size_t element = c10::elementSize(memory.dtype);
  const auto elements = static_cast<std::int64_t>((division.bytes + element - 1) / element);
  try {
    const at::Tensor all = group_->allocate({elements}, at::TensorOptions(memory.dtype));
    group_->keep_for_pieces(all);
    memory.arena = GradientArena::create(all, division);
  } catch (const CommError& error) {
    // Buckets need less, and all ranks see this error.
    obstacle = error.what();
    memory.places.reset();
    return false;
  }
  install_lending_allocator();
  return true;
}

void ReducerState::allocate_flat(Memory& memory) {
  // How much that is depends on no plan: every gradient begins on a cache line.
  const BucketPlan all{memory.parameters, memory.dtype, memory.device};
  const auto elements = static_cast<std::int64_t>(GradientBucket::elements_for(all, shapes_));
  memory.flat = group_->allocate({elements}, at::TensorOptions(memory.dtype).device(memory.device));
}

bool ReducerState::has_arena() const {
  return std::any_of(memories_.begin(), memories_.end(),
                     [](const Memory& memory) { return memory.arena != nullptr; });
}

void ReducerState::use_flat_memory() {
  close_arenas();
  // All or nothing: an error leaves everything as it was.
  for (Memory& memory : memories_) {
    if (memory.arena) allocate_flat(memory);
  }
  for (Memory& memory : memories_) {
    memory.arena.reset();
    memory.places.reset();
  }
  divide();
}

void ReducerState::divide() {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> tensors;
  for (Parameter& parameter : parameters_) {
    // Gradients that lie side by side would be written over.
    auto& gradient = parameter.tensor.mutable_grad();
    if (!buckets_.empty() && bucket_of(parameter).flat().defined() &&
        bucket_of(parameter).is_view(parameter.place, gradient)) {
      gradient = gradient.clone();
    }
    tensors.push_back(parameter.tensor);
  }
  buckets_.clear();
  statistics_.buckets.clear();
  std::vector<std::int64_t> used(memories_.size(), 0);
  for (const BucketPlan& plan : plan_.plans) {
    buckets_.push_back(make_bucket(plan, used, tensors));
    auto& described = statistics_.buckets.emplace_back();
    described.bytes = buckets_.back().bytes();
    for (std::size_t place = 0; place < plan.parameters.size(); ++place) {
      Parameter& parameter = parameters_[plan.parameters[place]];
      parameter.bucket = buckets_.size() - 1;
      parameter.place = place;
      described.parameters.push_back(parameter.name);
    }
  }
  ++statistics_.plan;
  statistics_.plan_reason = plan_.reason;
}

/// `used`: of each memory, what the buckets before have: elements, or places in an arena.
GradientBucket ReducerState::make_bucket(const BucketPlan& plan, std::vector<std::int64_t>& used,
                                         const std::vector<at::Tensor>& tensors) {
  std::size_t kind = 0;
  while (memories_[kind].dtype != plan.dtype || memories_[kind].device != plan.device) ++kind;
  const Memory& memory = memories_[kind];
  const std::string name =
      "bucket " + std::to_string(buckets_.size() + 1) + " of " + std::to_string(plan_.plans.size());
  if (memory.arena) {
    std::vector<std::size_t> numbers;
    for (const std::size_t index : plan.parameters) numbers.push_back(memory.numbers[index]);
    const auto places = static_cast<std::int64_t>(numbers.size());
    const auto first = std::exchange(used[kind], used[kind] + places);
    return {plan,    memory.arena, std::move(numbers), memory.places.narrow(0, first, places),
            tensors, name};
  }
  const auto elements = static_cast<std::int64_t>(GradientBucket::elements_for(plan, shapes_));
  const auto first = std::exchange(used[kind], used[kind] + elements);
  const at::Tensor flat = memory.flat.narrow(0, first, elements);
  flat.zero_();  // also between the gradients
  return {plan, flat, tensors, name};
}

void ReducerState::open_arenas() {
  if (!has_arena() || has_failed_ || !open_arenas_.expired()) return;
  std::vector<std::shared_ptr<GradientArena>> arenas;
  for (const Memory& memory : memories_) {
    if (!memory.arena) continue;
    lend_to_this_thread(memory.arena);
    arenas.push_back(memory.arena);
  }
  const std::shared_ptr<void> guard(nullptr, [arenas = std::move(arenas)](void*) {
    for (const auto& arena : arenas) arena->close();
  });
  open_arenas_ = guard;
  torch::autograd::Engine::get_default_engine().queue_callback([guard] {});
}

void ReducerState::close_arenas() noexcept {
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->close();
  }
}

void ReducerState::begin() {
  const std::lock_guard lock(mutex_);
  if (is_paused()) return open_arenas();
  begin_locked();
}

void ReducerState::begin_locked() {
  if (is_in_cycle_ && !backward_.expired()) return;
  if (is_in_cycle_) recover();
  // Another backward of the same outputs.
  if (samples_ == 0) samples_ = last_samples_;
  last_samples_ = samples_;
  TORCH_CHECK(options_.averaging() != GradientAveraging::Samples || samples_ > 0,
              "DistributedDataParallel: averaging by samples, but forward's first argument is no "
              "tensor of samples; call set_samples before backward");
  // Runs when the graph that is being worked on now is done: the outermost one, if an output's hook
  // came first. A graph that throws drops the callback unrun, and with it the token.
  const auto token = std::make_shared<bool>(true);
  backward_ = token;
  begin_cycle(options_.averaging() == GradientAveraging::Samples ? samples_ : 1);
  open_arenas();
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this(), token] {
    if (const auto self = weak.lock()) self->finish();
  });
}

void ReducerState::begin_cycle(std::int64_t samples) {
  const at::NoGradGuard no_grad;
  is_in_cycle_ = true;
  cycle_begin_ = Clock::now();
  if (auto proposal = std::exchange(proposal_, std::nullopt)) {
    plan_ = std::move(*proposal);
    divide();
  }
  if (hook_ && has_arena()) use_flat_memory();
  learner_->begin_cycle();
  scale_ = 1;
  if (options_.averaging() == GradientAveraging::Samples) {
    if (nominal_ == 0) {
      const auto most = at::full({1}, samples, at::kLong);
      group_->all_reduce(most, ReduceOp::Max).wait();
      nominal_ = std::max<std::int64_t>(1, most.item<std::int64_t>());
    }
    scale_ = static_cast<double>(samples) / static_cast<double>(nominal_);
  }
  summary_->clear();
  summary_->set_samples(samples);
}

void ReducerState::on_gradient(std::size_t index, const at::Tensor& incoming) {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  Parameter& parameter = parameters_[index];
  const at::Tensor& gradient = parameter.tensor.grad();
  TORCH_CHECK(!gradient.defined() || !gradient.requires_grad(),
              "DistributedDataParallel: the gradient of parameter '", parameter.name,
              "' has a graph of its own (backward with create_graph); averages cannot be "
              "differentiated. Use torch::autograd::grad for the inner derivative");
  if (!is_paused()) begin_locked();
  if (gradient.defined()) parameter.is_used = true;
  if (is_paused()) {
    if (gradient.defined()) {
      bucket_of(parameter).note_waiting(parameter.place, gradient, incoming);
    }
    return;
  }
  ++parameter.count;
  if (bucket_of(parameter).is_launched()) {
    // Another gradient after those of earlier backwards: a part of the model runs several times
    // within this one. It is reduced once more, at the end.
    parameter.is_late = gradient.defined() && !parameter.is_sparse;
    TORCH_CHECK(!parameter.is_late || has_summary(), "DistributedDataParallel: parameter '",
                parameter.name,
                "' got more gradients than in the first backward, which static_graph excludes");
  } else if (parameter.count >= parameter.expected) {
    take(parameter, incoming);
    learner_->note_ready(index);
    launch_complete_buckets();
  }
  group_->progress();
  note_reduced();
}

void ReducerState::note_reduced() {
  for (; let_go_ < launched_ && buckets_[let_go_].is_reduced(); ++let_go_) {
    GradientBucket& bucket = buckets_[let_go_];
    const auto now = Clock::now();
    if (learner_->is_measuring()) {
      learner_->note_reduced(bucket.bytes(), std::max(bucket.launched_at(), last_reduced_), now);
    }
    last_reduced_ = now;
  }
}

void ReducerState::take(Parameter& parameter, const at::Tensor& incoming) {
  const at::Tensor& gradient = parameter.tensor.grad();
  GradientBucket& bucket = bucket_of(parameter);
  if (parameter.is_sparse || (gradient.defined() && gradient.layout() != at::kStrided)) {
    parameter.is_sparse = true;
    return bucket.take_nothing(parameter.place);
  }
  if (!parameter.is_used) keep(parameter);
  bucket.take(parameter.place, parameter.tensor, scale_, incoming);
}

void ReducerState::keep(Parameter& parameter) {
  const at::Tensor& gradient = parameter.tensor.grad();
  const bool is_view = bucket_of(parameter).is_view(parameter.place, gradient);
  parameter.kept = is_view ? gradient.clone() : gradient;
}

void ReducerState::launch_complete_buckets() {
  while (launched_ < buckets_.size() && buckets_[launched_].is_complete()) {
    if (launched_ == 0) first_launch_ = Clock::now();
    launch(buckets_[launched_]);
    ++launched_;
  }
}

void ReducerState::launch(GradientBucket& bucket) {
  if (!hook_) return bucket.launch(*group_);
  std::vector<at::Tensor> tensors;
  for (const std::size_t index : bucket.parameters()) tensors.push_back(parameters_[index].tensor);
  bucket.launch(*group_, hook_,
                GradientBucketView(launched_, launched_ + 1 == buckets_.size(), statistics_.plan,
                                   bucket.flat(), bucket.views(), std::move(tensors)));
}

void ReducerState::recover() {
  for (GradientBucket& bucket : buckets_) {
    if (bucket.is_launched()) bucket.wait();
  }
  const std::int64_t samples = samples_;  // the same outputs may get another backward
  const bool are_said = are_samples_said_;
  reset();
  samples_ = samples;
  are_samples_said_ = are_said;
}

void ReducerState::reset() noexcept {
  close_arenas();
  for (GradientBucket& bucket : buckets_) bucket.reset();
  for (const Memory& memory : memories_) {
    if (memory.arena) memory.arena->end_cycle();
  }
  for (Parameter& parameter : parameters_) {
    parameter.count = 0;
    parameter.is_sparse = parameter.is_late = parameter.is_used = false;
    parameter.kept.reset();
  }
  launched_ = let_go_ = 0;
  samples_ = 0;
  are_samples_said_ = false;
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
  for (GradientBucket& bucket : buckets_) {
    if (bucket.is_launched()) end([&] { bucket.wait(); });
  }
  if (summary_->is_launched()) end([&] { summary_->wait(*group_); });
  reset();
}

void ReducerState::note_forward(std::int64_t samples) {
  const std::lock_guard lock(mutex_);
  if (is_in_cycle_ && backward_.expired()) {
    recover();
    samples_ = 0;
    are_samples_said_ = false;
  }
  if (!are_samples_said_) samples_ += samples;
}

void ReducerState::set_samples(std::int64_t samples) {
  const std::lock_guard lock(mutex_);
  samples_ = samples;
  are_samples_said_ = true;
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
  return std::exchange(had_shadows_, false);
}

std::vector<std::size_t> ReducerState::bucket_bytes() {
  const std::lock_guard lock(mutex_);
  std::vector<std::size_t> bytes;
  for (const GradientBucket& bucket : buckets_) bytes.push_back(bucket.bytes());
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
