// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/core/error.h>
#include <lockstep/pipeline/pipeline.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "comm/collective/fingerprint.h"
#include "core/exception_text.h"
#include "pipeline/runtime/step_runner.h"

namespace lockstep::pipeline {
namespace {

using Row = std::vector<std::int64_t>;

/// Row r: the words of rank r. Collective.
std::vector<Row> exchange(ProcessGroup& group, const Row& own) {
  const auto count = static_cast<std::int64_t>(own.size());
  const at::Tensor all = at::empty({group.size(), count}, at::kLong);
  group.all_gather(all, at::tensor(own, at::kLong)).wait();
  const auto* begin = all.const_data_ptr<std::int64_t>();
  std::vector<Row> rows;
  for (int rank = 0; rank < group.size(); ++rank, begin += count) {
    rows.emplace_back(begin, begin + count);
  }
  return rows;
}

/// Throws on all ranks where they differ, or where one of them could not make its plan.
void compare(ProcessGroup& group, const std::vector<Row>& rows) {
  static constexpr const char* kNames[] = {"stages", "microbatches", "scale_gradients",
                                           "activation_slots", "the schedule's plan"};
  for (std::size_t rank = 0; rank < rows.size(); ++rank) {
    TORCH_CHECK(rows[rank][0] != 0, "Pipeline: rank ", rank,
                " refused to make the pipeline; its own error says why");
  }
  for (std::size_t rank = 1; rank < rows.size(); ++rank) {
    for (std::size_t word = 1; word < rows[rank].size(); ++word) {
      if (rows[rank][word] == rows[0][word]) continue;
      const bool is_plan = word == rows[rank].size() - 1;
      TORCH_CHECK(
          false, "Pipeline: ", kNames[word - 1], " of rank 0 and of rank ", rank, " differ",
          is_plan ? std::string() : c10::str(": ", rows[0][word], " and ", rows[rank][word]),
          "; all ranks give the same (this is rank ", group.rank(), ")");
    }
  }
}

Plan make_plan(const std::shared_ptr<ProcessGroup>& group, const Stages& stages,
               const PipelineOptions& options) {
  TORCH_CHECK(group != nullptr, "Pipeline: the process group is null");
  std::optional<Plan> plan;
  std::exception_ptr error;
  try {
    TORCH_CHECK(!stages.all().empty(), "Pipeline: rank ", group->rank(), " has no stage");
    plan = options.schedule().plan(group->size(), static_cast<std::int64_t>(stages.all().size()),
                                   options.microbatches());
  } catch (...) {  // a rule of the program's own may throw anything
    error = std::current_exception();
  }
  const auto rows =
      exchange(*group, {error ? 0 : 1, static_cast<std::int64_t>(stages.all().size()),
                        options.microbatches(), options.scale_gradients() ? 1 : 0,
                        options.activation_slots() ? 1 : 0,
                        plan ? static_cast<std::int64_t>(hash_of(plan->to_csv())) : 0});
  if (error) std::rethrow_exception(error);
  compare(*group, rows);
  return std::move(*plan);
}

}  // namespace

class Pipeline::Runtime {
 public:
  Runtime(const std::shared_ptr<ProcessGroup>& group, const Stages& stages,
          const PipelineOptions& options)
      : plan_(make_plan(group, stages, options)),
        steps_(plan_.steps(group->rank())),
        group_(group),
        scale_gradients_(options.scale_gradients()),
        may_make_slots_(options.activation_slots() && group->size() > 1),
        links_{StageLink(group->split(0, group->rank())),
               StageLink(group->split(0, group->rank()))} {
    auto stage = stages.all().begin();
    for (const std::int64_t number : plan_.stages_of(group->rank())) {
      stages_.emplace(number, *stage++);
    }
    reset_statistics();
  }

  detail::Tensors step(const detail::Tensors& data, const detail::Tensors& targets,
                       const detail::LossFunction& loss) {
    const auto begin = std::chrono::steady_clock::now();
    auto losses = run([&](StepRunner& runner) {
      auto of_microbatches = runner.train(data, targets, loss);
      if (std::exchange(may_make_slots_, false)) make_slots();
      return of_microbatches;
    });
    if (scale_gradients_) divide_gradients();
    ++statistics_.steps;
    statistics_.step_seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    statistics_.sent_bytes = all_sent_bytes() - sent_before_;
    statistics_.slots_filled = all_slots_filled() - filled_before_;
    return losses;
  }

  detail::Tensors evaluate(const detail::Tensors& data) {
    const auto sent = all_sent_bytes(), filled = all_slots_filled();
    const auto parts = run([&](StepRunner& runner) { return runner.evaluate(data); });
    // Statistics are those of steps alone.
    sent_before_ += all_sent_bytes() - sent;
    filled_before_ += all_slots_filled() - filled;
    detail::Tensors all;
    for (std::size_t i = 0; !parts.empty() && i < parts.front().size(); ++i) {
      detail::Tensors pieces;
      for (const auto& part : parts) pieces.push_back(part.at(i));
      all.push_back(at::cat(pieces, 0));
    }
    return all;
  }

  SimulationCosts measured_costs() {
    check_alive();
    constexpr ActionKind kKinds[] = {ActionKind::Forward, ActionKind::BackwardInput,
                                     ActionKind::BackwardWeight, ActionKind::Backward};
    std::vector<double> own;
    for (const auto& [number, stage] : stages_) {
      for (const ActionKind kind : kKinds) own.push_back(statistics_.times(kind, number).mean());
    }
    const at::Tensor all =
        at::empty({group_->size(), static_cast<std::int64_t>(own.size())}, at::kDouble);
    group_->all_gather(all, at::tensor(own, at::kDouble)).wait();
    SimulationCosts costs;
    costs.stages.resize(static_cast<std::size_t>(plan_.stages()));
    const auto* value = all.const_data_ptr<double>();
    for (std::int64_t rank = 0; rank < plan_.ranks(); ++rank) {
      for (const std::int64_t number : plan_.stages_of(rank)) {
        StageCosts& stage = costs.stages[static_cast<std::size_t>(number)];
        stage.forward = *value++;
        stage.input = *value++;
        stage.weight = *value++;
        stage.backward = *value++;
        if (!(*stage.backward > 0)) stage.backward.reset();
      }
    }
    return costs;
  }

  void close() {
    if (is_closed_) return;
    check_alive();
    is_closed_ = true;
    links_.activations.close();
    links_.gradients.close();
  }

  void reset_statistics() {
    statistics_ = {};
    sent_before_ = all_sent_bytes();
    filled_before_ = all_slots_filled();
  }

  [[nodiscard]] const Plan& plan() const noexcept { return plan_; }
  [[nodiscard]] const PipelineStatistics& statistics() const noexcept { return statistics_; }
  [[nodiscard]] bool has_stage(std::int64_t number) const { return stages_.contains(number); }

 private:
  void check_alive() const {
    TORCH_CHECK(!is_closed_, "Pipeline: it is closed");
    TORCH_CHECK(failure_.empty(), "Pipeline: it has failed before, and cannot go on: ", failure_);
  }

  /// Runs one batch. A rank that fails tells the others why, because they wait for it.
  template <typename Body>
  std::invoke_result_t<const Body&, StepRunner&> run(const Body& body) {
    check_alive();
    StepRunner runner({plan_, steps_, group_->rank(), stages_, scale_gradients_}, links_,
                      statistics_);
    try {
      return body(runner);
    } catch (CommError& error) {
      give_up(runner.describe_place());
      error.add_context(c10::str("pipeline, rank ", group_->rank(), " ", runner.describe_place(),
                                 "; ", stages_of_ranks()));
      throw;
    } catch (c10::Error& error) {
      give_up(runner.describe_place());
      error.add_context(c10::str("pipeline, rank ", group_->rank(), " ", runner.describe_place()));
      throw;
    } catch (...) {
      give_up(runner.describe_place());
      throw;
    }
  }

  /// "rank 0 has stage 0, rank 1 has stages 1, 3": errors of groups name ranks.
  [[nodiscard]] std::string stages_of_ranks() const {
    constexpr std::int64_t kMost = 16;
    std::string text;
    for (std::int64_t rank = 0; rank < std::min(plan_.ranks(), kMost); ++rank) {
      const auto& stages = plan_.stages_of(rank);
      text += text.empty() ? "rank " : ", rank ";
      text += std::to_string(rank);
      text += stages.size() == 1 ? " has stage" : " has stages";
      for (const std::int64_t stage : stages) text += c10::str(" ", stage);
    }
    return text;
  }

  void give_up(const std::string& place) noexcept {
    try {
      failure_ = c10::str(
          "rank ", group_->rank(), " failed ", place, ": ",
          exception_text(std::current_exception(), "an exception of a type that is unknown here"));
    } catch (...) {
      failure_ = "a rank failed";
    }
    links_.activations.give_up(failure_);
    links_.gradients.give_up(failure_);
  }

  [[nodiscard]] std::uint64_t all_sent_bytes() const noexcept {
    return links_.activations.sent_bytes() + links_.gradients.sent_bytes();
  }
  [[nodiscard]] std::uint64_t all_slots_filled() const noexcept {
    return links_.activations.slots_filled() + links_.gradients.slots_filled();
  }

  /// After the first step, whose messages say how large they are. So many that nobody ever waits
  /// for a free one. Collective.
  void make_slots() {
    std::int64_t activations = 0, gradients = 0;
    for (std::int64_t rank = 0; rank < plan_.ranks(); ++rank) {
      std::int64_t sent_on = 0, sent_back = 0;
      for (const std::int64_t stage : plan_.stages_of(rank)) {
        if (stage + 1 < plan_.stages()) sent_on += plan_.peak_in_flight(stage + 1);
        if (stage > 0) sent_back += plan_.peak_gradients_in_flight(stage - 1);
      }
      activations = std::max(activations, sent_on);
      gradients = std::max(gradients, sent_back);
    }
    links_.activations.make_slots(activations);
    links_.gradients.make_slots(gradients);
  }

  void divide_gradients() {
    const at::NoGradGuard no_grad;
    const auto microbatches = plan_.microbatches();
    if (microbatches == 1) return;
    std::unordered_set<c10::TensorImpl*> seen;  // stages may share a parameter
    for (const auto& [number, stage] : stages_) {
      for (at::Tensor& parameter : stage.parameters()) {
        if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
        at::Tensor& gradient = parameter.mutable_grad();
        if (gradient.defined()) gradient.div_(static_cast<double>(microbatches));
      }
    }
  }

  Plan plan_;
  std::vector<Step> steps_;  // of this rank
  std::shared_ptr<ProcessGroup> group_;
  bool scale_gradients_;
  bool may_make_slots_;  // not made so far
  StageLinks links_;
  std::map<std::int64_t, Stage> stages_;
  PipelineStatistics statistics_;
  std::uint64_t sent_before_ = 0, filled_before_ = 0;
  std::string failure_;
  bool is_closed_ = false;
};

Pipeline::Pipeline(const std::shared_ptr<ProcessGroup>& group, const Stages& stages,
                   const PipelineOptions& options)
    : runtime_(std::make_unique<Runtime>(group, stages, options)) {}
Pipeline::~Pipeline() = default;
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

std::vector<at::Tensor> Pipeline::run_step(const Values& data, const Values& target,
                                           const detail::LossFunction& loss) {
  return runtime_->step(data.all(), target.all(), loss);
}

std::vector<at::Tensor> Pipeline::forward_all(const Values& data) {
  return runtime_->evaluate(data.all());
}

at::Tensor Pipeline::forward(const Values& data) {
  const auto all = forward_all(data);
  TORCH_CHECK(all.size() <= 1, "Pipeline::forward: the last stage has ", all.size(),
              " outputs; forward_all returns them all");
  return all.empty() ? at::Tensor() : all.front();
}

const Plan& Pipeline::plan() const noexcept {
  return runtime_->plan();
}
bool Pipeline::has_first_stage() const noexcept {
  return runtime_->has_stage(0);
}
bool Pipeline::has_last_stage() const noexcept {
  return runtime_->has_stage(plan().stages() - 1);
}
const PipelineStatistics& Pipeline::statistics() const noexcept {
  return runtime_->statistics();
}
void Pipeline::reset_statistics() {
  runtime_->reset_statistics();
}
SimulationCosts Pipeline::measured_costs() {
  return runtime_->measured_costs();
}
void Pipeline::close() {
  runtime_->close();
}

}  // namespace lockstep::pipeline
