// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/gradient_reducer.h"

#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "parallel/bucket_planner.h"
#include "parallel/gradient_bucket.h"

namespace lockstep {
namespace {

std::vector<at::Tensor> tensors_of(const std::vector<GradientReducer::NamedParameter>& named) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : named) tensors.push_back(tensor);
  return tensors;
}

std::vector<BucketPlan> plan(const std::vector<at::Tensor>& parameters,
                             const DistributedDataParallelOptions& options) {
  std::vector<GradientShape> shapes;
  for (const at::Tensor& parameter : parameters) {
    shapes.push_back({static_cast<std::size_t>(parameter.numel()), parameter.scalar_type()});
  }
  return plan_buckets(shapes, options.first_bucket_cap_bytes(), options.bucket_cap_bytes());
}

}  // namespace

class GradientReducer::State : public std::enable_shared_from_this<State> {
 public:
  State(std::shared_ptr<ProcessGroup> group, std::vector<NamedParameter> parameters,
        const DistributedDataParallelOptions& options);

  /// Some backward has begun, as far as this model is concerned.
  void begin();
  void on_gradient(std::size_t index);
  [[nodiscard]] std::vector<std::size_t> bucket_bytes() const;

 private:
  struct Position {
    std::size_t bucket;
    std::size_t place;
  };

  void begin_locked();
  /// A backward that threw left its buckets half filled; what it had started is finished first.
  void recover();
  void finish();
  void launch_complete_buckets();
  void write_usage();
  [[nodiscard]] bool is_used_anywhere(std::size_t index) const;
  void reset();

  std::shared_ptr<ProcessGroup> group_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_;
  std::vector<GradientBucket> buckets_;
  std::vector<Position> positions_;

  std::mutex mutex_;  // guards what follows, and the buckets
  bool is_in_backward_ = false;
  std::weak_ptr<bool> backward_;  // lives as long as the backward under way
  std::size_t launched_ = 0;      // buckets, in their order
  std::vector<bool> is_used_;     // by this rank, in this backward
};

GradientReducer::State::State(std::shared_ptr<ProcessGroup> group,
                              std::vector<NamedParameter> parameters,
                              const DistributedDataParallelOptions& options)
    : group_(std::move(group)),
      parameters_(tensors_of(parameters)),
      positions_(parameters_.size()) {
  for (auto& [name, tensor] : parameters) names_.push_back(std::move(name));
  const auto plans = plan(parameters_, options);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    // Behind the last bucket travels one number a parameter: whether any rank used it.
    const std::size_t extra = i + 1 == plans.size() ? parameters_.size() : 0;
    buckets_.emplace_back(*group_, plans[i], parameters_, extra);
    for (std::size_t place = 0; place < plans[i].parameters.size(); ++place) {
      positions_[plans[i].parameters[place]] = {i, place};
    }
  }
  is_used_.assign(parameters_.size(), false);
}

void GradientReducer::State::begin() {
  const std::lock_guard lock(mutex_);
  begin_locked();
}

void GradientReducer::State::begin_locked() {
  if (is_in_backward_ && !backward_.expired()) return;
  if (is_in_backward_) recover();
  is_in_backward_ = true;
  // Runs when the graph that is being worked on now is done: the outermost one, if an output's hook
  // came first. A graph that throws drops the callback unrun, and with it the token.
  const auto token = std::make_shared<bool>(true);
  backward_ = token;
  torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this(), token] {
    if (const auto self = weak.lock()) self->finish();
  });
}

void GradientReducer::State::on_gradient(std::size_t index) {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  begin_locked();
  const at::Tensor& parameter = parameters_[index];
  const auto [bucket_index, place] = positions_[index];
  GradientBucket& bucket = buckets_[bucket_index];
  TORCH_CHECK(!bucket.is_launched(), "DistributedDataParallel: parameter '", names_[index],
              "' got another gradient after its bucket was all-reduced in this backward");
  TORCH_CHECK(!parameter.grad().defined() || parameter.grad().layout() == at::kStrided,
              "DistributedDataParallel: parameter '", names_[index], "' has a ",
              parameter.grad().layout(), " gradient; only dense gradients can be averaged");
  if (parameter.grad().defined()) is_used_[index] = true;
  bucket.take(place, parameter);
  launch_complete_buckets();
  group_->progress();
}

void GradientReducer::State::launch_complete_buckets() {
  while (launched_ < buckets_.size() && buckets_[launched_].is_complete()) {
    if (launched_ + 1 == buckets_.size()) write_usage();
    buckets_[launched_].launch(*group_);
    ++launched_;
  }
}

void GradientReducer::State::write_usage() {
  const std::vector<float> usage(is_used_.begin(), is_used_.end());
  buckets_.back().extra().copy_(at::tensor(usage));
}

bool GradientReducer::State::is_used_anywhere(std::size_t index) const {
  // Every rank that used it added 1 before the average was taken.
  return is_used_[index] ||
         buckets_.back().extra()[static_cast<std::int64_t>(index)].item<double>() > 0;
}

void GradientReducer::State::finish() {
  const std::lock_guard lock(mutex_);
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto [bucket, place] = positions_[i];
    if (!buckets_[bucket].has_taken(place)) buckets_[bucket].take(place, parameters_[i]);
  }
  launch_complete_buckets();
  for (GradientBucket& bucket : buckets_) bucket.wait();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto [bucket, place] = positions_[i];
    // Nobody used it: stays as it is, undefined as a rule, so that no optimizer moves it.
    if (is_used_anywhere(i)) buckets_[bucket].give(place, parameters_[i]);
  }
  reset();
}

void GradientReducer::State::recover() {
  for (GradientBucket& bucket : buckets_) {
    if (bucket.is_launched()) bucket.wait();
  }
  reset();
}

void GradientReducer::State::reset() {
  for (GradientBucket& bucket : buckets_) bucket.reset();
  launched_ = 0;
  is_used_.assign(parameters_.size(), false);
  is_in_backward_ = false;
}

std::vector<std::size_t> GradientReducer::State::bucket_bytes() const {
  std::vector<std::size_t> bytes;
  for (const GradientBucket& bucket : buckets_) bytes.push_back(bucket.bytes());
  return bytes;
}

GradientReducer::GradientReducer(std::shared_ptr<ProcessGroup> group,
                                 std::vector<NamedParameter> parameters,
                                 const DistributedDataParallelOptions& options) {
  const std::vector<at::Tensor> tensors = tensors_of(parameters);
  state_ = std::make_shared<State>(std::move(group), std::move(parameters), options);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    // The tensor itself refers to this node weakly: whoever hooks it must keep it.
    auto node = torch::autograd::impl::grad_accumulator(tensors[i]);
    const auto key = node->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
        [weak = std::weak_ptr(state_), i](const torch::autograd::variable_list& outputs,
                                          const torch::autograd::variable_list&) {
          if (const auto state = weak.lock()) state->on_gradient(i);
          return outputs;
        }));
    hooks_.emplace_back(std::move(node), key);
  }
}

GradientReducer::~GradientReducer() {
  for (auto& [node, key] : hooks_) node->del_post_hook(key);
}

void GradientReducer::watch(const at::Tensor& output) {
  if (!output.defined() || !output.requires_grad() || !at::GradMode::is_enabled()) return;
  output.register_hook([weak = std::weak_ptr(state_)](const at::Tensor&) {
    // autograd::grad wants gradients for the program, not for the parameters: nothing to average.
    const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
    if (wanted != nullptr && !wanted->empty()) return;
    if (const auto state = weak.lock()) state->begin();
  });
}

std::vector<std::size_t> GradientReducer::bucket_bytes() const {
  return state_->bucket_bytes();
}

}  // namespace lockstep
