// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/step_runner.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <optional>

#include "pipeline/runtime/sending_thread.h"

namespace lockstep::pipeline {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// What a stage gets: the graph of its microbatch begins there.
std::vector<at::Tensor> make_leaves(const Parcel& parcel) {
  std::vector<at::Tensor> leaves;
  for (std::size_t i = 0; i < parcel.tensors.size(); ++i) {
    const bool needs_gradient = i < parcel.needs_gradient.size() && parcel.needs_gradient[i];
    leaves.push_back(needs_gradient ? parcel.tensors[i].detach().requires_grad_(true)
                                    : parcel.tensors[i]);
  }
  return leaves;
}

std::vector<at::Tensor> those_with_gradients(const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> found;
  std::copy_if(leaves.begin(), leaves.end(), std::back_inserter(found),
               [](const at::Tensor& leaf) { return leaf.requires_grad(); });
  return found;
}

/// Where the microbatches differ in size, the larger ones count for more. The division by their
/// number follows at the end of the step. Exactly 1 where they do not differ.
double weight_of(const BatchShape& batch) {
  return static_cast<double>(batch.rows * batch.microbatches) /
         static_cast<double>(batch.batch_rows);
}

}  // namespace

StepRunner::Tensors StepRunner::train(const Tensors& data, const Tensors& targets,
                                      const detail::LossFunction& loss) {
  const at::AutoGradMode with_gradients(true);
  const auto microbatches = context_.plan.microbatches();
  if (is_here(0)) data_ = CutBatch::of(data, microbatches, "data");
  if (is_here(context_.plan.stages() - 1)) {
    targets_ = CutBatch::of(targets, microbatches, "targets");
  }
  loss_ = &loss;
  for (const Step& step : context_.steps) follow(step);
  const auto begin = Clock::now();
  StageLink::finish_sends(links_.activations, links_.gradients);
  statistics_.waited_seconds += seconds_since(begin);
  Tensors losses;
  for (auto& [key, value] : losses_) losses.push_back(std::move(value));
  return losses;
}

std::vector<StepRunner::Tensors> StepRunner::evaluate(const Tensors& data) {
  const at::AutoGradMode without_gradients(false);
  is_training_ = false;
  // The rank with the first stage knows how many there are; the others learn it with the first one.
  microbatches_ = context_.plan.microbatches();
  if (is_here(0)) {
    if (!data.empty() && data.front().defined() && data.front().dim() > 0) {
      microbatches_ = std::clamp(data.front().size(0), std::int64_t{1}, microbatches_);
    }
    data_ = CutBatch::of(data, microbatches_, "data");
  }
  // A stage's forwards come in the places that the plan has for them, but in ascending order: where
  // there are fewer microbatches, the last ones are those that do not come.
  std::map<std::int64_t, std::int64_t> next;
  const Plan& plan = context_.plan;
  for (const Action& planned : plan.actions(context_.rank)) {
    if (planned.kind != ActionKind::Forward) continue;
    const Action action{planned.kind, planned.stage, next[planned.stage]++};
    if (action.microbatch >= microbatches_) continue;
    Step step{StepKind::WaitReceive, Traffic::Activation, action.stage, action.microbatch};
    if (!is_first(action.stage) && !is_here(action.stage - 1)) {
      step.peer = plan.rank_of(action.stage - 1);
      take(step, action);
    }
    start(action);
    if (!is_last(action.stage) && !is_here(action.stage + 1)) {
      step.peer = plan.rank_of(action.stage + 1);
      send(step);
    }
  }
  StageLink::finish_sends(links_.activations, links_.gradients);
  std::vector<Tensors> results;
  for (auto& [key, value] : results_) results.push_back(std::move(value));
  return results;
}

std::string StepRunner::describe_place() const {
  return place_;
}

void StepRunner::follow(const Step& step) {
  const auto& actions = context_.plan.actions(context_.rank);
  const Action& action = actions[static_cast<std::size_t>(step.action)];
  switch (step.kind) {
    case StepKind::PostReceive:
      links_.of(step.traffic).post(static_cast<int>(step.peer), stage(step.stage).device());
      return;
    case StepKind::WaitReceive:
      return take(step, action);
    case StepKind::Compute:
      return start(action);
    case StepKind::Send:
      return send(step);
  }
}

void StepRunner::start(const Action& action) {
  // What is on its way moves on, before this rank is busy for a while.
  links_.activations.progress();
  links_.gradients.progress();
  const SendingThread sending(links_.activations, links_.gradients);
  compute(action);
}

void StepRunner::send(const Step& step) {
  const std::int64_t receiver = step.stage + (step.traffic == Traffic::Activation ? 1 : -1);
  auto parcel = outgoing_.extract({receiver, step.microbatch});
  TORCH_INTERNAL_ASSERT(!parcel.empty());
  links_.of(step.traffic).send(static_cast<int>(step.peer), std::move(parcel.mapped()));
}

void StepRunner::take(const Step& step, const Action& action) {
  const bool is_activation = step.traffic == Traffic::Activation;
  place_ = c10::str("waiting for the ", is_activation ? "output" : "gradient", " of stage ",
                    step.stage + (is_activation ? -1 : 1), " (rank ", step.peer, ") before ",
                    to_string(action));
  // Messages come in the order in which they were sent, which may not be that of their use.
  auto& arrived = is_activation ? inputs_ : gradients_;
  StageLink& link = links_.of(step.traffic);
  const int peer = static_cast<int>(step.peer);
  const auto begin = Clock::now();
  while (!arrived.contains({step.stage, step.microbatch})) {
    if (!is_training_) link.post(peer, stage(step.stage).device());
    Parcel parcel = link.take(peer, links_.other_than(step.traffic));
    TORCH_CHECK(is_here(parcel.stage), "pipeline: rank ", step.peer, " sent microbatch ",
                parcel.microbatch, " to stage ", parcel.stage,
                ", which this rank does not have; the ranks follow different plans");
    if (is_activation) microbatches_ = parcel.batch.microbatches;
    const Key key{parcel.stage, parcel.microbatch};
    arrived.insert_or_assign(key, std::move(parcel));
  }
  if (is_training_) statistics_.waited_seconds += seconds_since(begin);
}

void StepRunner::compute(const Action& action) {
  place_ =
      c10::str("in ", to_string(action), " (stage ", action.stage, ", rank ", context_.rank, ")");
  const auto begin = Clock::now();
  std::optional<ActionKind> done = ActionKind::Forward;
  if (action.kind == ActionKind::Forward) {
    forward(action);
  } else {
    done = backward(action);
  }
  if (is_training_ && done) count({*done, action.stage}, seconds_since(begin));
}

void StepRunner::count(const Action& action, double seconds) {
  auto& all = statistics_.actions;
  const auto found = std::find_if(all.begin(), all.end(), [&](const ActionTimes& one) {
    return one.kind == action.kind && one.stage == action.stage;
  });
  ActionTimes& times =
      found != all.end() ? *found : all.emplace_back(ActionTimes{action.kind, action.stage});
  ++times.count;
  times.seconds += seconds;
}

Parcel StepRunner::take_input(const Action& action) {
  if (!is_first(action.stage)) {
    auto arrived = inputs_.extract({action.stage, action.microbatch});
    TORCH_INTERNAL_ASSERT(!arrived.empty());
    return std::move(arrived.mapped());
  }
  Parcel parcel;
  parcel.tensors = data_.parts[static_cast<std::size_t>(action.microbatch)];
  parcel.batch = {parcel.tensors.front().size(0), data_.rows,
                  static_cast<std::int64_t>(data_.parts.size())};
  return parcel;
}

void StepRunner::forward(const Action& action) {
  const Parcel parcel = take_input(action);
  const Tensors inputs = make_leaves(parcel);
  // Afterwards, an input that the stage changed in place may have a gradient that nobody waits for.
  Tensors leaves = those_with_gradients(inputs);
  const Tensors outputs = stage(action.stage).call(inputs);
  TORCH_CHECK(!outputs.empty(), "pipeline: stage ", action.stage, " returned no tensor");
  for (const at::Tensor& output : outputs) {
    TORCH_CHECK(output.defined() && output.layout() == at::kStrided, "pipeline: stage ",
                action.stage, " returned an undefined or sparse tensor, which cannot travel");
  }
  finish_forward(action, std::move(leaves), outputs, parcel.batch);
}

void StepRunner::finish_forward(const Action& action, Tensors inputs, const Tensors& outputs,
                                const BatchShape& batch) {
  const Key key{action.stage, action.microbatch};
  if (is_first(action.stage)) inputs.clear();  // nobody waits for their gradients
  if (!is_last(action.stage)) {
    hand_on(action, outputs, batch);
    if (!is_training_) return;
    graphs_.try_emplace(key, std::move(inputs), outputs);
  } else if (is_training_) {
    check_targets(targets_.rows, batch.batch_rows, batch.microbatches);
    const at::Tensor loss =
        (*loss_)(outputs, targets_.parts[static_cast<std::size_t>(action.microbatch)]);
    TORCH_CHECK(loss.defined() && loss.numel() == 1, "pipeline: the loss of microbatch ",
                action.microbatch, " must be one number, and is ",
                loss.defined() ? c10::str("a tensor of sizes ", loss.sizes()) : "undefined");
    graphs_.try_emplace(key, std::move(inputs), Tensors{loss});
    if (loss.requires_grad()) {
      const double weight = context_.scale_gradients ? weight_of(batch) : 1;
      seeds_[key] = {at::full_like(loss, weight)};
    }
    losses_.insert_or_assign(key, loss.detach());
  } else {
    results_[key] = outputs;
    return;
  }
  statistics_.peak_held =
      std::max(statistics_.peak_held, static_cast<std::int64_t>(graphs_.size()));
}

void StepRunner::hand_on(const Action& action, const Tensors& outputs, const BatchShape& batch) {
  Parcel parcel{action.stage + 1, action.microbatch, batch, {}, {}, {}};
  for (const at::Tensor& output : outputs) {
    parcel.needs_gradient.push_back(is_training_ && output.requires_grad());
    parcel.tensors.push_back(output.detach());
  }
  deliver(inputs_, action.stage + 1, std::move(parcel));
}

void StepRunner::deliver(std::map<Key, Parcel>& to, std::int64_t stage, Parcel parcel) {
  auto& place = is_here(stage) ? to : outgoing_;
  const Key key{stage, parcel.microbatch};
  place.insert_or_assign(key, std::move(parcel));
}

StepRunner::Tensors StepRunner::gradients_for(const Action& action) {
  const Key key{action.stage, action.microbatch};
  if (is_last(action.stage)) {
    auto seed = seeds_.extract(key);
    return seed.empty() ? Tensors() : std::move(seed.mapped());
  }
  auto arrived = gradients_.extract(key);
  TORCH_INTERNAL_ASSERT(!arrived.empty());
  return std::move(arrived.mapped().tensors);
}

std::optional<ActionKind> StepRunner::backward(const Action& action) {
  const Key key{action.stage, action.microbatch};
  const auto graph = graphs_.find(key);
  if (action.kind == ActionKind::BackwardWeight) {
    // An earlier action may have done it: see `run_backward`.
    if (graph == graphs_.end()) return std::nullopt;
    const auto pause = stage(action.stage).pause_averaging();
    graph->second.backward_weight();
    graphs_.erase(graph);
    return action.kind;
  }
  TORCH_INTERNAL_ASSERT(graph != graphs_.end());
  const ActionKind done = run_backward(action, graph->second, gradients_for(action));
  if (!is_first(action.stage)) hand_back(action, graph->second.take_input_gradients());
  if (done == ActionKind::Backward) graphs_.erase(graph);
  return done;
}

bool StepRunner::is_last_backward(const Action& action) const {
  const auto& actions = context_.plan.actions(context_.rank);
  const auto last = std::find_if(actions.rbegin(), actions.rend(), [&](const Action& one) {
    return one.stage == action.stage &&
           (one.kind == ActionKind::Backward || one.kind == ActionKind::BackwardInput);
  });
  return *last == action;
}

ActionKind StepRunner::run_backward(const Action& action, MicrobatchGraph& graph,
                                    const Tensors& gradients) {
  const Stage& own = stage(action.stage);
  if (own.averages_gradients() && is_last_backward(action)) {
    // A whole backward averages. What has been put off belongs to the same average.
    finish_weights(action);
    graph.backward(gradients);
    return ActionKind::Backward;
  }
  const auto pause = own.pause_averaging();
  if (action.kind == ActionKind::Backward) {
    graph.backward(gradients);
  } else {
    graph.backward_input(gradients);
  }
  return action.kind;
}

void StepRunner::finish_weights(const Action& last) {
  const auto pause = stage(last.stage).pause_averaging();
  for (std::int64_t microbatch = 0; microbatch < context_.plan.microbatches(); ++microbatch) {
    const auto graph = graphs_.find({last.stage, microbatch});
    if (graph == graphs_.end() || microbatch == last.microbatch) continue;
    graph->second.backward_weight();
    graphs_.erase(graph);
  }
}

void StepRunner::hand_back(const Action& action, Tensors input_gradients) {
  Parcel parcel{action.stage - 1, action.microbatch, {}, {}, std::move(input_gradients), {}};
  deliver(gradients_, action.stage - 1, std::move(parcel));
}

}  // namespace lockstep::pipeline
