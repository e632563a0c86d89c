// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/pipeline/detail/stage_call.h>
#include <lockstep/pipeline/pipeline_options.h>
#include <lockstep/pipeline/plan.h>
#include <lockstep/pipeline/simulation.h>
#include <lockstep/pipeline/stage.h>
#include <lockstep/pipeline/statistics.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace lockstep::pipeline {

/// The tensors of a batch: one, or several that are cut alike.
///
/// Thread-safety: a value.
class Values {
 public:
  /// One tensor; an undefined one is none.
  Values(const at::Tensor& tensor) {  // NOLINT: converts on purpose
    if (tensor.defined()) tensors_.push_back(tensor);
  }
  /// Several.
  Values(std::vector<at::Tensor> tensors)  // NOLINT: converts on purpose
      : tensors_(std::move(tensors)) {}
  /// Several, in braces.
  Values(std::initializer_list<at::Tensor> tensors) : tensors_(tensors) {}

  /// All of them.
  [[nodiscard]] const std::vector<at::Tensor>& all() const noexcept { return tensors_; }

 private:
  std::vector<at::Tensor> tensors_;
};

/// A model whose stages lie on the ranks of a group, and through which the microbatches of a batch
/// go one behind another.
///
///     lockstep::pipeline::Pipeline pipeline(group, my_stages,
///     lockstep::pipeline::PipelineOptions()
///         .microbatches(8).schedule(lockstep::pipeline::one_f_one_b()));
///     const auto losses = pipeline.step(data, target, loss_function);
///     optimizer.step();
///
/// A rank gives its own stages, in ascending order; `plan().stages_of(rank)` says which those are:
/// `rank`, `rank + group->size()`, ... (with `zbv`, `rank` and `2 * group->size() - 1 - rank`).
/// After a step, the parameters of every stage have the gradients that the whole model would have
/// in one process after the same microbatches in the same order, bit for bit. What a stage returns
/// may change its shape from microbatch to microbatch.
///
/// A stage that is wrapped in `DistributedDataParallel` over other ranks, which have the same
/// stage, averages its gradients in its last backward of the step.
///
/// Collective: construction, `step`, `forward`, `measured_costs` and `close`.
/// Thread-safety: one thread at a time.
/// Owns: the stages, and two groups of the same ranks, one for each direction. Destruction
/// communicates nothing, and gives the groups up that `close` has not closed.
/// Throws: where a rank fails in `step` or `forward`, its own exception there, and `PeerLostError`
/// on the others, with the stage in its text. The pipeline has failed then: all later calls throw.
/// Source: torch.distributed.pipelining; Huang et al., "GPipe", 2019; Narayanan et al.,
/// "Memory-Efficient Pipeline-Parallel DNN Training", 2021; Qi et al., "Zero Bubble Pipeline
/// Parallelism", 2023.
class LOCKSTEP_API Pipeline final {
 public:
  /// Makes the plan, and splits the group twice.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks of `group` call it, with the same options and equally many stages.
  /// Throws: `c10::Error` on all ranks for options or numbers of stages that differ or that the
  /// schedule refuses; what a collective throws.
  Pipeline(const std::shared_ptr<ProcessGroup>& group, const Stages& stages,
           const PipelineOptions& options);
  ~Pipeline();
  /// The pipeline that is moved from can only be destroyed or assigned to.
  Pipeline(Pipeline&&) noexcept;
  /// As the constructor.
  Pipeline& operator=(Pipeline&&) noexcept;

  /// Runs all microbatches forward and backward. Gradients are added to those that are there; then
  /// all are divided (`PipelineOptions::scale_gradients`), so zero them before.
  ///
  /// The batch is cut along dimension 0 into parts whose sizes differ by at most 1, the larger ones
  /// first. Only the rank with the first stage looks at `data`, and only the one with the last
  /// stage at `target` and `loss`: others may give anything, as `{}`. `loss(output, target)`
  /// returns a scalar; both may be tensors or vectors of them.
  ///
  /// Returns the loss of each microbatch, without its graph, on the rank with the last stage;
  /// nothing elsewhere.
  ///
  /// Blocks: the calling thread, until this rank's part is done.
  /// Collective: all ranks call it.
  /// Throws: what stages and `loss` throw; `c10::Error` for a batch with fewer rows than
  /// microbatches; what a collective throws.
  template <typename Loss>
  std::vector<at::Tensor> step(const Values& data, const Values& target, Loss&& loss) {
    return run_step(data, target,
                    [&loss](const detail::Tensors& outputs, const detail::Tensors& targets) {
                      return detail::call_loss(loss, outputs, targets);
                    });
  }
  /// Runs all microbatches forward, without gradients. A batch with fewer rows than microbatches is
  /// cut into single rows. Returns the output of the last stage on its rank, the rows of all
  /// microbatches one behind another; an undefined tensor elsewhere.
  ///
  /// Blocks: the calling thread, until this rank's part is done.
  /// Collective: all ranks call it.
  /// Throws: as `step`; `c10::Error` for a last stage with several outputs.
  [[nodiscard]] at::Tensor forward(const Values& data);
  /// The same for a last stage with several outputs; nothing elsewhere.
  /// Blocks: as `forward`.
  /// Collective: all ranks call it.
  /// Throws: as `step`.
  [[nodiscard]] std::vector<at::Tensor> forward_all(const Values& data);

  /// Who computes what in which order.
  [[nodiscard]] const Plan& plan() const noexcept;
  /// Whether this rank has stage 0, whose input is the data.
  [[nodiscard]] bool has_first_stage() const noexcept;
  /// Whether this rank has the last stage, which the losses come from.
  [[nodiscard]] bool has_last_stage() const noexcept;

  /// What happened so far, on this rank.
  [[nodiscard]] const PipelineStatistics& statistics() const noexcept;
  /// Forgets what happened so far: after steps to warm up.
  void reset_statistics();
  /// What the actions of all stages took on average so far, in seconds, for `plan().simulate`.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  [[nodiscard]] SimulationCosts measured_costs();

  /// Closes the groups that this pipeline made. Calling it again does nothing.
  ///
  /// Blocks: the calling thread.
  /// Collective: all ranks call it.
  /// Throws: what a collective throws.
  void close();

 private:
  class Runtime;
  std::vector<at::Tensor> run_step(const Values& data, const Values& target,
                                   const detail::LossFunction& loss);

  std::unique_ptr<Runtime> runtime_;
};

}  // namespace lockstep::pipeline
