// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <lockstep/core/error.h>
#include <lockstep/optim/sgd.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/graphed_step.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "comm/group/captured_groups.h"
#include "comm/group/group_core.h"
#include "native/cuda/graph_stream.h"

namespace lockstep {
namespace {

constexpr const char* kGraphCall = "graphed step";  // as errors name it

/// The stream is the current one while this lives.
class StreamScope {
 public:
  explicit StreamScope(native::GraphStream* stream) : stream_(stream) {
    if (stream_ != nullptr) stream_->enter();
  }
  ~StreamScope() {
    try {
      leave();
    } catch (...) {  // an error is on its way, or the device is beyond help
    }
  }
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

  void leave() {
    if (auto* stream = std::exchange(stream_, nullptr)) stream->leave();
  }

 private:
  native::GraphStream* stream_;
};

std::vector<DistributedDataParallelBase*> wrapped_models_in(torch::nn::Module& module) {
  std::vector<DistributedDataParallelBase*> models;
  for (const auto& part : module.modules()) {
    auto* model = dynamic_cast<DistributedDataParallelBase*>(part.get());
    if (model != nullptr) models.push_back(model);
  }
  return models;
}

c10::Device device_of(const std::vector<at::Tensor>& parameters) {
  TORCH_CHECK(!parameters.empty(), "GraphedStep: the model has no parameters");
  const c10::Device device = parameters.front().device();
  for (const at::Tensor& parameter : parameters) {
    TORCH_CHECK(parameter.device() == device, "GraphedStep: the model has parameters on ", device,
                " and on ", parameter.device(), "; a graph is of one device");
  }
  return device;
}

/// The momentum that a step of SGD reads and writes; undefined for others.
at::Tensor momentum_of(const torch::optim::OptimizerParamState& state) {
  if (const auto* sgd = dynamic_cast<const torch::optim::SGDParamState*>(&state)) {
    return sgd->momentum_buffer();
  }
  const auto* own = dynamic_cast<const optim::ParameterState*>(&state);
  return own != nullptr ? own->tensors[0] : at::Tensor();
}

/// What a step of SGD has as constants; nothing for other options.
template <typename Options>
bool append_constants(const torch::optim::OptimizerOptions& options, std::vector<double>& list) {
  const auto* sgd = dynamic_cast<const Options*>(&options);
  if (sgd == nullptr) return false;
  list.insert(list.end(), {sgd->lr(), sgd->momentum(), sgd->dampening(), sgd->weight_decay(),
                           sgd->nesterov() ? 1.0 : 0.0});
  if constexpr (std::is_same_v<Options, optim::SGDOptions>) {
    list.insert(list.end(), {sgd->maximize() ? 1.0 : 0.0, sgd->fused() ? 1.0 : 0.0});
  }
  return true;
}

/// While an exception of a capture is handled: throws it again, with what the program can do.
[[noreturn]] void rethrow_of_capture() {
  try {
    throw;
  } catch (CommError& error) {
    error.add_context(
        "GraphedStep: in the midst of the capture of a step; where a call is made after the device "
        "has refused the capture (item, nonzero, printing), the group has failed as well");
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::exception& error) {
    TORCH_CHECK(false,
                "GraphedStep: the step cannot be captured. In a graph nothing reads values on the "
                "host (item, nonzero, printing) or depends on them, and nothing waits for the "
                "device. The device says: ",
                error.what());
  }
}

using Groups = std::vector<std::shared_ptr<GroupCore>>;

/// Returns the name of a call that was to go into the graph and did not; empty: there is none.
std::string end_capture_of(const Groups& groups) {
  std::string missing;
  for (const auto& group : groups) {
    const std::string op = group->end_capture();
    if (missing.empty()) missing = op;
  }
  return missing;
}

/// A graph was enqueued. Throws: the first failure of a group, after all of them were told: the
/// kernels of each are in the graph, and wait there for other ranks.
void watch_graph_of(const Groups& groups, c10::DeviceType device) {
  std::exception_ptr error;
  for (const auto& group : groups) {
    try {
      group->watch_graph(device, kGraphCall);
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace

/// What a graph has as constants of a batch.
struct GraphedStepBase::Form {
  std::vector<std::int64_t> sizes;
  at::ScalarType dtype;

  explicit Form(const at::Tensor& tensor)
      : sizes(tensor.sizes().vec()), dtype(tensor.scalar_type()) {}
};

GraphedStepBase::GraphedStepBase(std::shared_ptr<torch::nn::Module> module,
                                 torch::optim::Optimizer& optimizer,
                                 const std::vector<at::Tensor>& example,
                                 const GraphedStepOptions& options,
                                 std::shared_ptr<native::GraphStream> stream)
    : module_(std::move(module)),
      models_(wrapped_models_in(*module_)),
      parameters_(module_->parameters()),
      buffers_(module_->buffers()),
      optimizer_(optimizer),
      stream_(std::move(stream)),
      device_(device_of(parameters_)),
      eager_until_(options.eager_steps()) {
  TORCH_CHECK(eager_until_ >= 2, "GraphedStep: eager_steps is ", eager_until_,
              "; it must be 2 or more, since the first steps make what a graph reads");
  TORCH_CHECK(!example.empty(), "GraphedStep: the example batch has no tensor");
  for (const at::Tensor& tensor : example) {
    TORCH_CHECK(tensor.defined() && tensor.layout() == at::kStrided,
                "GraphedStep: the example batch has a tensor that is undefined or not dense");
    forms_.emplace_back(tensor);
  }
  check_models();
  for (const auto* model : models_) {
    eager_until_ = std::max(eager_until_, model->steps_before_capture());
  }
  if (!stream_) return;
  const c10::DeviceGuard guard(device_);
  StreamScope scope(stream_.get());
  // Gradients belong to the stream on which their hooks were made.
  for (auto* model : models_) model->rebind();
  scope.leave();
}

GraphedStepBase::~GraphedStepBase() = default;

std::shared_ptr<native::GraphStream> GraphedStepBase::stream_for(
    const std::shared_ptr<torch::nn::Module>& module) {
  TORCH_CHECK(module != nullptr, "GraphedStep: the model is empty");
  const c10::Device device = device_of(module->parameters());
  if (!device.is_cuda()) return nullptr;
  return native::make_graph_stream(device.index());
}

void GraphedStepBase::check_models() const {
  for (const auto* model : models_) {
    const std::string obstacle = model->obstacle_to_capture(device_.type());
    TORCH_CHECK(obstacle.empty(), "GraphedStep: ", obstacle);
  }
}

at::Tensor GraphedStepBase::make_input(const at::Tensor& example) {
  if (!stream_) return example;
  const c10::DeviceGuard guard(device_);
  inputs_.push_back(at::empty_like(example, example.options().device(device_)));
  return inputs_.back();
}

bool GraphedStepBase::is_captured() const {
  return stream_ && stream_->has_graph();
}

void GraphedStepBase::check(const std::vector<at::Tensor>& batch) const {
  TORCH_CHECK(batch.size() == forms_.size(), "GraphedStep: the batch has ", batch.size(),
              " tensors, the example has ", forms_.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Form& form = forms_[i];
    TORCH_CHECK(batch[i].defined() && batch[i].sizes() == form.sizes &&
                    batch[i].scalar_type() == form.dtype,
                "GraphedStep: tensor ", i, " of the batch is ", batch[i].toString(), " of sizes ",
                batch[i].defined() ? batch[i].sizes() : at::IntArrayRef(),
                "; in the example it is ", form.dtype, " of sizes ", at::IntArrayRef(form.sizes),
                ". A graph has one form: leave out the last, smaller batch of an epoch "
                "(drop_last), or make a GraphedStep for each form");
  }
}

at::Tensor GraphedStepBase::step(const std::vector<at::Tensor>& batch, const ComputeLoss& of_batch,
                                 const ComputeLoss& of_inputs) {
  check(batch);
  check_models();  // also where a graph would not ask: a hook or no_sync may have come
  at::Tensor loss;
  if (!stream_) {
    loss = eager_step(of_batch);
  } else {
    const c10::DeviceGuard guard(device_);
    StreamScope scope(stream_.get());
    for (std::size_t i = 0; i < batch.size(); ++i) inputs_[i].copy_(batch[i], true);
    follow_places();
    loss = steps_ < eager_until_ ? eager_step(of_inputs) : graphed_step(of_inputs);
    scope.leave();
  }
  ++steps_;
  return loss;
}

at::Tensor GraphedStepBase::eager_step(const ComputeLoss& compute_loss) {
  optimizer_.zero_grad();
  const at::Tensor loss = compute_loss();
  TORCH_CHECK(loss.defined() && loss.numel() == 1, "GraphedStep: loss_fn gave ",
              loss.defined() ? loss.numel() : 0, " elements; a loss has one");
  loss.backward();
  optimizer_.step();
  return at::Tensor(loss.detach());
}

at::Tensor GraphedStepBase::graphed_step(const ComputeLoss& compute_loss) {
  try {
    // A graph that runs without a rank which is gone changes the parameters by garbage.
    if (stream_->has_graph()) {
      for (const auto& group : groups_) group->check_graph(device_.type(), kGraphCall);
    }
    if (!stream_->has_graph() || constants() != captured_constants_) capture(compute_loss);
    replay();
  } catch (const CommError&) {
    drop_graph();  // the abort of a communicator ends only when its graphs are gone
    throw;
  }
  return loss_.clone();  // the next step writes where this one lies
}

void GraphedStepBase::drop_graph() {
  stream_->drop_graph();
  groups_.clear();
  gradients_.clear();
  loss_.reset();
}

void GraphedStepBase::follow_places() {
  if (!stream_->has_graph() || places() == captured_places_) return;
  drop_graph();
  // New state of the optimizer and new buckets come in steps that run as they are.
  constexpr std::size_t kSettled = 2;
  eager_until_ = steps_ + kSettled;
}

std::vector<const void*> GraphedStepBase::places() const {
  std::vector<const void*> list;
  const auto append = [&list](const at::Tensor& tensor) {
    list.push_back(tensor.defined() ? tensor.const_data_ptr() : nullptr);
  };
  for (const at::Tensor& parameter : parameters_) {
    append(parameter);
    append(parameter.requires_grad() ? parameter : at::Tensor());
  }
  for (const at::Tensor& buffer : buffers_) append(buffer);
  const auto& states = std::as_const(optimizer_).state();
  for (const auto& group : std::as_const(optimizer_).param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      append(parameter);
      const auto state = states.find(parameter.unsafeGetTensorImpl());
      append(state == states.end() ? at::Tensor() : momentum_of(*state->second));
    }
  }
  return list;
}

std::vector<double> GraphedStepBase::constants() const {
  std::vector<double> list;
  for (auto& group : optimizer_.param_groups()) {
    const auto& options = group.options();
    const bool is_known = append_constants<torch::optim::SGDOptions>(options, list) ||
                          append_constants<optim::SGDOptions>(options, list);
    if (!is_known) return {};
    list.push_back(static_cast<double>(group.params().size()));
  }
  return list;
}

void GraphedStepBase::capture(const ComputeLoss& compute_loss) {
  drop_graph();
  optimizer_.zero_grad();
  for (auto* model : models_) model->vacate_buckets();
  captured_constants_ = constants();
  captured_places_ = places();
  const bool has_optimizer = !captured_constants_.empty();
  capture_calls([this, compute_loss, has_optimizer] {
    const at::Tensor loss = compute_loss();
    loss.backward();
    if (has_optimizer) optimizer_.step();
    loss_ = loss.detach();
  });
  ++captures_;
}

void GraphedStepBase::capture_calls(const std::function<void()>& body) {
  const CapturedGroups captured;
  try {
    stream_->capture(body);
  } catch (...) {
    end_capture_of(captured.groups());
    rethrow_of_capture();
  }
  groups_ = captured.groups();
  const std::string missing = end_capture_of(groups_);
  if (!missing.empty()) drop_graph();
  TORCH_CHECK(missing.empty(), "GraphedStep: the step began ", missing,
              " and does not wait for it. A graph has the calls that its step waits for: call "
              "wait() in loss_fn");
  for (const auto& group : groups_) group->add_graph(stream_);
}

void GraphedStepBase::replay() {
  // The program may have let go of them; the graph writes them all the same.
  for (std::size_t i = 0; i < gradients_.size(); ++i) {
    if (gradients_[i].defined()) parameters_[i].mutable_grad() = gradients_[i];
  }
  stream_->replay();
  if (gradients_.empty()) {
    for (const at::Tensor& parameter : parameters_) gradients_.push_back(parameter.grad());
  }
  watch_graph_of(groups_, device_.type());
  if (captured_constants_.empty()) optimizer_.step();
}

}  // namespace lockstep
