// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/pipeline/detail/stage_call.h>
#include <lockstep/pipeline/plan.h>
#include <lockstep/pipeline/stage.h>
#include <lockstep/pipeline/statistics.h>
#include <lockstep/pipeline/step.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/runtime/batch_cut.h"
#include "pipeline/runtime/microbatch_graph.h"
#include "pipeline/runtime/parcel.h"
#include "pipeline/runtime/stage_link.h"

namespace lockstep::pipeline {

/// The links of one rank, one for each direction.
struct StageLinks {
  StageLink activations;
  StageLink gradients;

  [[nodiscard]] StageLink& of(Traffic traffic) noexcept {
    return traffic == Traffic::Activation ? activations : gradients;
  }
  [[nodiscard]] StageLink& other_than(Traffic traffic) noexcept {
    return traffic == Traffic::Activation ? gradients : activations;
  }
};

/// What does not change from step to step.
struct StepContext {
  const Plan& plan;
  const std::vector<Step>& steps;  // of this rank
  std::int64_t rank;
  const std::map<std::int64_t, Stage>& stages;  // of this rank, by their numbers
  bool scale_gradients;
};

/// One batch on its way through the stages of this rank: follows this rank's row of the plan.
///
/// Thread-safety: one thread at a time.
class StepRunner {
 public:
  using Tensors = std::vector<at::Tensor>;

  StepRunner(const StepContext& context, StageLinks& links, PipelineStatistics& statistics)
      : context_(context), links_(links), statistics_(statistics) {}

  /// Forward and backward; returns the losses, on the rank with the last stage.
  [[nodiscard]] Tensors train(const Tensors& data, const Tensors& targets,
                              const detail::LossFunction& loss);
  /// Forward alone; returns the outputs of each microbatch, on the rank with the last stage.
  [[nodiscard]] std::vector<Tensors> evaluate(const Tensors& data);

  /// What this rank does or did last, for an error: "in 2F3 (stage 2, rank 1)".
  [[nodiscard]] std::string describe_place() const;

 private:
  using Key = std::pair<std::int64_t, std::int64_t>;  // stage and microbatch

  [[nodiscard]] const Stage& stage(std::int64_t number) const { return context_.stages.at(number); }
  [[nodiscard]] bool is_first(std::int64_t number) const { return number == 0; }
  [[nodiscard]] bool is_last(std::int64_t number) const {
    return number + 1 == context_.plan.stages();
  }
  [[nodiscard]] bool is_here(std::int64_t number) const { return context_.stages.contains(number); }

  void follow(const Step& step);
  /// `action`: what needs the message.
  void take(const Step& step, const Action& action);
  void send(const Step& step);
  /// Computes while messages go on.
  void start(const Action& action);
  void compute(const Action& action);
  void forward(const Action& action);
  /// `outputs` of a stage that is not the last one.
  void hand_on(const Action& action, const Tensors& outputs, const BatchShape& batch);
  void finish_forward(const Action& action, Tensors inputs, const Tensors& outputs,
                      const BatchShape& batch);
  /// What it came to; nothing: an earlier action did the work.
  std::optional<ActionKind> backward(const Action& action);
  ActionKind run_backward(const Action& action, MicrobatchGraph& graph, const Tensors& gradients);
  /// Whether no gradient of the stage's output comes behind it.
  [[nodiscard]] bool is_last_backward(const Action& action) const;
  void hand_back(const Action& action, Tensors input_gradients);
  /// Of all microbatches but that one.
  void finish_weights(const Action& last);
  /// The input of that stage: from another rank, from another stage of this one, or of the data.
  [[nodiscard]] Parcel take_input(const Action& action);
  [[nodiscard]] Tensors gradients_for(const Action& action);
  void deliver(std::map<Key, Parcel>& to, std::int64_t stage, Parcel parcel);
  void count(const Action& action, double seconds);

  StepContext context_;
  StageLinks& links_;
  PipelineStatistics& statistics_;
  bool is_training_ = true;
  std::int64_t microbatches_ = 0;  // of this batch, as far as it is known
  CutBatch data_;
  CutBatch targets_;
  const detail::LossFunction* loss_ = nullptr;
  std::map<Key, MicrobatchGraph> graphs_;
  std::map<Key, Parcel> inputs_;     // have come, and wait for their forward
  std::map<Key, Parcel> gradients_;  // the same for a backward
  std::map<Key, Parcel> outgoing_;   // of the last action, for another rank
  std::map<Key, at::Tensor> losses_;
  std::map<Key, Tensors> seeds_;    // the gradients of the losses
  std::map<Key, Tensors> results_;  // of the last stage, in an evaluation
  std::string place_ = "before its first action";
};

}  // namespace lockstep::pipeline
