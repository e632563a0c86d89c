// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/graphed_step.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "native/cuda/graph_stream.h"
#include "support/fake_nccl.h"
#include "support/small_nets.h"

namespace lockstep::testing {

using StepExample = torch::data::Example<>;
using StepOptions = DistributedDataParallelOptions;

inline torch::Tensor cross_entropy_of(const torch::Tensor& output, const torch::Tensor& target) {
  return torch::nn::functional::cross_entropy(output, target);
}

inline StepExample batch_of(std::int64_t step, int rank, int ranks) {
  return {share(make_input(step, 12), rank, ranks), share(make_target(step, 12), rank, ranks)};
}

inline torch::optim::SGDOptions momentum() {
  return torch::optim::SGDOptions(0.05).momentum(0.9);
}

inline DistributedDataParallel<ConvNet> wrapped(
    const std::shared_ptr<ProcessGroup>& group,
    StepOptions options = StepOptions().static_graph(true)) {
  ConvNet net;
  fill_parameters(*net);
  return {net, group, options.bucket_cap_bytes(600).first_bucket_cap_bytes(100)};
}

/// What a graphed step is compared with. Returns the loss.
template <typename Model>
torch::Tensor step_eagerly(Model& model, torch::optim::Optimizer& optimizer,
                           const StepExample& batch) {
  optimizer.zero_grad();
  const auto loss = cross_entropy_of(model->forward(batch.data), batch.target);
  loss.backward();
  optimizer.step();
  return loss;
}

/// Runs a step again where a device would run its graph: the graph writes gradients where the first
/// run has put them, whatever the parameters refer to by then. Counts what it is told.
class FakeGraphStream final : public native::GraphStream {
 public:
  explicit FakeGraphStream(std::vector<torch::Tensor> parameters)
      : parameters_(std::move(parameters)) {}

  void enter() override { ++depth_; }
  void leave() override { --depth_; }
  void capture(const std::function<void()>& body) override {
    EXPECT_EQ(depth_, 1);
    ++captures;
    if (before_capture) before_capture();
    if (fails) throw std::runtime_error("operation not permitted when stream is capturing");
    if (world) run_captured(body);
    body_ = body;
    gradients_.clear();
  }
  [[nodiscard]] bool has_graph() const override { return static_cast<bool>(body_); }
  void replay() override {
    EXPECT_EQ(depth_, 1);
    ++replays;
    if (instead) return instead();
    std::vector<torch::Tensor> referred;
    for (auto& parameter : parameters_) {
      referred.push_back(parameter.grad());
      parameter.mutable_grad().reset();  // a graph does not add to what is there
    }
    body_();
    const bool is_first = gradients_.empty();
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      torch::Tensor& gradient = parameters_[i].mutable_grad();
      if (is_first) {
        gradients_.push_back(gradient);
      } else if (gradient.defined()) {
        gradients_[i].copy_(gradient);
        gradient = referred[i];
      }
    }
  }
  void drop_graph() override {
    body_ = nullptr;
    ++drops;
  }
  [[nodiscard]] bool is_left() const { return depth_ == 0; }

  int captures = 0;
  int replays = 0;
  int drops = 0;
  bool fails = false;
  std::function<void()> before_capture;
  std::shared_ptr<FakeNccl> world;  // null: captures do not run the step's code
  int rank = 0;
  std::function<std::vector<torch::Tensor>()> more_state;  // that a step changes
  std::function<void()> instead;  // runs where a graph would that does not end

 private:
  /// The code of the step runs, what it enqueues does not; what it changed is put back.
  void run_captured(const std::function<void()>& body) {
    std::vector<torch::Tensor> changed = parameters_;
    if (more_state) {
      for (const auto& tensor : more_state()) changed.push_back(tensor);
    }
    std::vector<torch::Tensor> values;
    for (const auto& tensor : changed) values.push_back(tensor.detach().clone());
    world->capture(rank, true);
    try {
      body();
    } catch (...) {
      world->capture(rank, false);
      throw;
    }
    world->capture(rank, false);
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < changed.size(); ++i) changed[i].copy_(values[i]);
  }

  std::vector<torch::Tensor> parameters_;
  std::vector<torch::Tensor> gradients_;  // of the graph
  std::function<void()> body_;
  int depth_ = 0;
};

/// One on which a rank captures calls of the world's groups.
inline std::shared_ptr<FakeGraphStream> stream_over(const std::shared_ptr<FakeNccl>& world,
                                                    int rank,
                                                    const std::vector<torch::Tensor>& parameters) {
  auto stream = std::make_shared<FakeGraphStream>(parameters);
  stream->world = world;
  stream->rank = rank;
  return stream;
}

/// A `GraphedStep` of batches of images on a stream that is made up.
class FakeGraphedStep : public GraphedStepBase {
 public:
  using LossOf = std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)>;

  template <typename Model>
  FakeGraphedStep(Model model, torch::optim::Optimizer& optimizer, const StepExample& example,
                  std::shared_ptr<FakeGraphStream> stream, LossOf loss_fn = cross_entropy_of)
      : GraphedStepBase(model.ptr(), optimizer, {example.data, example.target}, {},
                        std::move(stream)),
        inputs_{make_input(example.data), make_input(example.target)},
        loss_of_([model, loss_fn = std::move(loss_fn)](const StepExample& batch) mutable {
          return loss_fn(model->forward(batch.data), batch.target);
        }) {}

  torch::Tensor operator()(const StepExample& batch) {
    return step(
        {batch.data, batch.target}, [&]() -> torch::Tensor { throw std::logic_error("no batch"); },
        [this] { return loss_of_(inputs_); });
  }

 private:
  StepExample inputs_;
  std::function<torch::Tensor(const StepExample&)> loss_of_;
};

}  // namespace lockstep::testing
