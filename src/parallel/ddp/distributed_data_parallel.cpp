// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/full.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <string>
#include <utility>

#include "comm/group/group_core.h"
#include "native/posix/heap.h"
#include "parallel/ddp/autograd_hooks.h"
#include "parallel/ddp/ddp_checks.h"
#include "parallel/ddp/ddp_state.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/module_tensors.h"
#include "parallel/ddp/parameter_record.h"

namespace lockstep {
namespace {

/// The tensors that will get rank 0's values, as a text: it must be the same on all ranks.
std::string names_of(const NamedTensors& later) {
  std::string names;
  for (const auto& [name, tensor] : later)
    names += (names.empty() ? "; new: '" : ", '") + name + "'";
  return names;
}

/// Blocks: the calling thread. Collective: all ranks.
bool any_rank(ProcessGroup& group, bool is_so) {
  const auto most = at::full({1}, is_so ? 1 : 0, at::kLong);
  group.all_reduce(most, ReduceOp::Max).wait();
  return most.item<std::int64_t>() != 0;
}

/// What makes wrapping impossible on this rank, or nothing. All ranks are told: a rank that threw
/// by itself would leave the others waiting.
std::string problem_of(const torch::nn::Module& module,
                       const DistributedDataParallelOptions& options, const NamedTensors& hooked) {
  try {
    check_arguments(module, options);
    check_parameters(hooked);
    return "";
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
}

/// Adds to an error that the other ranks have made another call what this rank has done.
void explain(MismatchError& error, const std::string& model) {
  const bool is_own = error.op() == kWrapper;
  if (is_own || !error.context().empty()) return;
  error.add_context(
      model +
      ": on this rank, parameters were thawed, registered or replaced, or got another "
      "dtype, device or shape, since the forward before; all ranks do that before the "
      "same forward");
}

}  // namespace

DistributedDataParallelBase::DistributedDataParallelBase(
    std::shared_ptr<torch::nn::Module> module, std::shared_ptr<ProcessGroup> group,
    const DistributedDataParallelOptions& options)
    : torch::nn::Module("DistributedDataParallel"),
      module_(std::move(module)),
      group_(std::move(group)),
      options_(options) {
  TORCH_CHECK(module_ != nullptr, "DistributedDataParallel: the module is empty");
  TORCH_CHECK(group_ != nullptr, "DistributedDataParallel: the process group is null");
  register_module("module", module_);
  // The number tells models apart also where the program gave two of them one name.
  const std::string number = std::to_string(group_->next_number());
  options_.name(options.name().empty() ? "model " + number : options.name() + " (" + number + ")");
  record_ = std::make_unique<ParameterRecord>(*module_);
  compare_and_hook(/*has_graph=*/false);
}

DistributedDataParallelBase::~DistributedDataParallelBase() = default;

// A parameter that was hooked before may need gradients again, so it keeps its memory.
NamedTensors DistributedDataParallelBase::parameters_to_hook() const {
  NamedTensors list;
  for (auto& named : distinct(parameters_of(*module_, options_.ignored_names()))) {
    const bool had_gradients = (autograd_hooks_ && autograd_hooks_->knows(named.second)) ||
                               (loaded_ && loaded_->is_hooked(named.first));
    if (named.second.requires_grad() || had_gradients) list.push_back(std::move(named));
  }
  return list;
}

void DistributedDataParallelBase::compare_and_hook(bool has_graph) {
  const std::vector<std::string>& ignored = options_.ignored_names();
  const bool is_first = known_.empty();
  const NamedTensors state = state_of(*module_, ignored);
  // All other tensors were there before, and their values are equal already.
  const NamedTensors later = is_first ? NamedTensors() : without(known_, state);
  auto hooked = parameters_to_hook();
  try {
    const auto scope = group_->with(
        CallOptions().name(options_.name() + (is_first ? ": parameters" : ": new parameters")));
    check_same_on_all_ranks(*group_, problem_of(*module_, options_, hooked),
                            describe(options_) + names_of(later), state);
  } catch (MismatchError& error) {
    if (!is_first) explain(error, options_.name());
    throw;
  }
  if (group_->size() == 1) return;  // gradients are their own average
  replace_reducer(std::move(hooked));
  if (options_.broadcast_at_start() && !later.empty() && any_rank(*group_, has_graph)) {
    // Backward needs the values of its forward.
    autograd_hooks_->reducer().share_values(later);
  } else if (options_.broadcast_at_start()) {
    broadcast_tensors(*group_, is_first ? state : later, 0);
  }
  // This comes last, so that tensors which an error leaves without rank 0's values get them by the
  // next attempt.
  known_.clear();
  for (const auto& [name, tensor] : state) known_.push_back(tensor);
}

void DistributedDataParallelBase::replace_reducer(NamedTensors hooked) {
  if (options_.retain_freed_memory()) native::retain_freed_memory();
  if (autograd_hooks_) {
    so_far_ = autograd_hooks_->reducer().statistics();
    // Kept until a successor has it: making one may fail.
    unfinished_ = std::make_unique<UnfinishedReduction>(autograd_hooks_->reducer().unfinished());
  }
  autograd_hooks_.reset();  // before its successor takes memory
  autograd_hooks_ = std::make_unique<AutogradHooks>(
      group_, hooked,
      [module = module_, ignored = options_.ignored_names()] {
        return buffers_of(*module, ignored);
      },
      options_, pauses_, so_far_);
  autograd_hooks_->reducer().set_hook(hook_);
  if (unfinished_) autograd_hooks_->reducer().take_over(*unfinished_);
  unfinished_.reset();
  const auto loaded = std::exchange(loaded_, nullptr);
  if (!loaded) return;
  // The program may have changed the parameters since the state was loaded.
  const auto all = distinct(parameters_of(*module_, options_.ignored_names()));
  if (!loaded->has_parameters_of(DdpState(options_, all)) || !loaded->fits(hooked)) {
    return;
  }
  autograd_hooks_->reducer().restore(loaded->for_reducer(hooked));
}

void DistributedDataParallelBase::follow_parameters(bool has_graph) {
  if (autograd_hooks_ && !loaded_ && record_->is_of(*module_) &&
      !autograd_hooks_->has_lost_hooks()) {
    return;
  }
  const auto needing = with_gradient(parameters_of(*module_, options_.ignored_names()));
  if (autograd_hooks_ && !loaded_ && autograd_hooks_->covers(needing)) {
    autograd_hooks_->follow_needs();
  } else if (!needing.empty()) {
    // This also follows a failed attempt to make a reducer.
    compare_and_hook(has_graph);
  }
  needs_gradients_ = !needing.empty();
  *record_ = ParameterRecord(*module_);
}

void DistributedDataParallelBase::begin_forward(std::optional<std::int64_t> samples) {
  forward_begin_ = Clock::now();
  forward_samples_ = samples;
  is_watched_ = false;
  if (group_->size() == 1 || !at::GradMode::is_enabled()) return;
  follow_parameters(/*has_graph=*/false);
  if (!autograd_hooks_) return;
  // With all parameters frozen there is nothing to average, unless something has waited for it.
  is_watched_ = needs_gradients_ || autograd_hooks_->reducer().has_waiting();
  if (is_watched_) {
    autograd_hooks_->reducer().begin_forward(samples);
  } else {
    autograd_hooks_->reducer().note_idle();
  }
}

void DistributedDataParallelBase::end_forward() {
  forward_end_ = Clock::now();
  const auto time = forward_end_ - forward_begin_;
  const std::uint64_t step = autograd_hooks_ ? autograd_hooks_->reducer().steps() : 0;
  if (step != forward_step_) forward_ = {};
  forward_step_ = step;
  forward_ += time;
  forward_total_ += time;
  if (group_->size() == 1 || !at::GradMode::is_enabled()) return;
  // Forward may have registered parameters, which get gradients in this backward already.
  follow_parameters(/*has_graph=*/true);
  if (!autograd_hooks_) return;
  const bool was_watched = std::exchange(is_watched_, is_watched_ || needs_gradients_);
  if (!is_watched_) return;
  if (!was_watched) autograd_hooks_->reducer().begin_forward(forward_samples_);
  autograd_hooks_->reducer().end_forward();
}

std::vector<torch::Tensor> DistributedDataParallelBase::parameters(bool recurse) const {
  return module_->parameters(recurse);
}

torch::OrderedDict<std::string, torch::Tensor> DistributedDataParallelBase::named_parameters(
    bool recurse) const {
  return module_->named_parameters(recurse);
}

std::vector<torch::Tensor> DistributedDataParallelBase::buffers(bool recurse) const {
  return module_->buffers(recurse);
}

torch::OrderedDict<std::string, torch::Tensor> DistributedDataParallelBase::named_buffers(
    bool recurse) const {
  return module_->named_buffers(recurse);
}

void DistributedDataParallelBase::zero_grad(bool set_to_none) {
  module_->zero_grad(set_to_none);
}

void DistributedDataParallelBase::save(torch::serialize::OutputArchive& archive) const {
  module_->save(archive);
}

void DistributedDataParallelBase::load(torch::serialize::InputArchive& archive) {
  module_->load(archive);
}

void DistributedDataParallelBase::join(const std::function<void()>& step) {
  lockstep::join({*this}, step);
}

void join(const std::vector<std::reference_wrapper<DistributedDataParallelBase>>& models,
          const std::function<void()>& step) {
  for (const DistributedDataParallelBase& model : models) {
    TORCH_CHECK(!model.options_.static_graph(), "join: ", model.options_.name(),
                " was wrapped with static_graph, so that ranks do not say whether they have data; "
                "leave that option out");
  }
  for (bool has_data = true; has_data;) {
    has_data = false;
    const auto round = std::make_shared<bool>(true);
    for (DistributedDataParallelBase& model : models) {
      if (model.shadow(round)) has_data = true;
    }
    if (has_data && step) step();
  }
  for (DistributedDataParallelBase& model : models) {
    const auto& hooks = model.autograd_hooks_;
    // All ranks made the same iterations, so that they agree on this.
    if (!hooks || !hooks->reducer().take_had_shadows() || step) continue;
    broadcast_tensors(*model.group_, state_of(*model.module_, model.options_.ignored_names()),
                      hooks->reducer().first_active_rank());
  }
}

bool DistributedDataParallelBase::shadow(const std::shared_ptr<bool>& round) {
  if (!autograd_hooks_) return false;
  // A step may have frozen or thawed parameters, as those of the others did.
  follow_parameters(/*has_graph=*/false);
  return autograd_hooks_->reducer().shadow(round);
}

void DistributedDataParallelBase::set_samples(std::int64_t samples) {
  TORCH_CHECK(samples >= 0, "set_samples: ", samples, " samples; it takes 0 or more");
  if (autograd_hooks_) autograd_hooks_->reducer().set_samples(samples);
}

void DistributedDataParallelBase::register_communication_hook(CommunicationHook hook) {
  // A hook that the reducer refuses is none of its successor either.
  if (autograd_hooks_) autograd_hooks_->reducer().set_hook(hook);
  hook_ = std::move(hook);
}

void DistributedDataParallelBase::broadcast_parameters(int root) {
  broadcast_tensors(*group_, parameters_of(*module_, options_.ignored_names()), root);
}

void DistributedDataParallelBase::broadcast_buffers(int root) {
  broadcast_tensors(*group_, buffers_of(*module_, options_.ignored_names()), root);
}

void DistributedDataParallelBase::average_buffers() {
  average_tensors(*group_, buffers_of(*module_, options_.ignored_names()), true, 0);
}

std::string DistributedDataParallelBase::state() const {
  const auto all = distinct(parameters_of(*module_, options_.ignored_names()));
  DdpState state(options_, all);
  if (loaded_ && loaded_->has_parameters_of(state)) return loaded_->to_text();
  if (autograd_hooks_) {
    state.add(autograd_hooks_->reducer().state(), autograd_hooks_->parameters(), all);
  }
  return state.to_text();
}

void DistributedDataParallelBase::load_state(const std::string& state) {
  prepare_state(state)();
}

std::function<void()> DistributedDataParallelBase::prepare_state(const std::string& state) {
  auto loaded = DdpState::from_text(state);
  loaded.check_for(options_, distinct(parameters_of(*module_, options_.ignored_names())));
  if (autograd_hooks_) autograd_hooks_->reducer().prepare_to_restore();
  return [this, loaded = std::move(loaded)] { go_on_with(loaded); };
}

std::function<void()> DistributedDataParallelBase::adapt_state(const std::string& of_rank_0,
                                                               int /*rank*/) {
  return prepare_state(of_rank_0);
}

// A reducer that does not know all parameters which were in buckets, since some are frozen now, or
// that knows one which was removed, gets a successor with the next forward, where all ranks are
// together.
void DistributedDataParallelBase::go_on_with(DdpState state) {
  const auto has_removed = [&] {
    const auto all = parameters_of(*module_, options_.ignored_names());
    return !without(tensors_in(all), autograd_hooks_->parameters()).empty();
  };
  if (autograd_hooks_ && state.fits(autograd_hooks_->parameters()) && !has_removed()) {
    autograd_hooks_->reducer().restore(state.for_reducer(autograd_hooks_->parameters()));
    loaded_.reset();
  } else {
    loaded_ = std::make_unique<DdpState>(std::move(state));
  }
}

std::string DistributedDataParallelBase::obstacle_to_capture(c10::DeviceType device) const {
  if (!options_.static_graph()) {
    return options_.name() +
           ": its backwards exchange on the CPU which parameters were used; wrap the model with "
           "DistributedDataParallelOptions().static_graph(true), if each backward uses the same";
  }
  if (*pauses_ != 0) {
    return options_.name() +
           ": no_sync is in force, and each call of a GraphedStep is a whole step";
  }
  if (options_.buffer_sync() != BufferSync::Local) {
    return options_.name() +
           ": buffer_sync copies buffers through CPU memory in each step; use BufferSync::Local, "
           "and broadcast_buffers() or average_buffers() where they are needed";
  }
  if (hook_) {
    return options_.name() +
           ": a communication hook runs on the CPU in each step; use a GraphedStep without a hook";
  }
  if (device == c10::kCPU || group_->core().can_be_captured(device)) return "";
  return options_.name() + ": gradients travel through CPU memory over the backend " +
         std::string(to_string(group_->backend())) + "; use Backend::Nccl, with a device a rank";
}

std::size_t DistributedDataParallelBase::steps_before_capture() const noexcept {
  // The buckets of a step are those that the step before has decided on.
  constexpr std::size_t kSettled = 2;
  return options_.tune_buckets_after() + kSettled;
}

void DistributedDataParallelBase::vacate_buckets() {
  if (autograd_hooks_) autograd_hooks_->reducer().vacate_buckets();
}

void DistributedDataParallelBase::rebind() {
  if (autograd_hooks_) autograd_hooks_->hook_parameters();
}

DistributedDataParallelStatistics DistributedDataParallelBase::statistics() const {
  DistributedDataParallelStatistics result =
      autograd_hooks_ ? autograd_hooks_->reducer().statistics() : so_far_;
  result.last.forward = forward_;
  result.total.forward = forward_total_;
  result.moments.forward_begin = forward_begin_;
  result.moments.forward_end = forward_end_;
  result.link = group_->describe_link();
  return result;
}

std::vector<std::size_t> DistributedDataParallelBase::bucket_bytes() const {
  return autograd_hooks_ ? autograd_hooks_->reducer().bucket_bytes() : std::vector<std::size_t>();
}

void DistributedDataParallelBase::watch(const torch::Tensor& output) {
  if (autograd_hooks_ && is_watched_) autograd_hooks_->watch(output);
}

}  // namespace lockstep
