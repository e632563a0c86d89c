// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "native/posix/owning_process.h"
#include "parallel/buckets/bucket_assignments.h"
#include "parallel/buckets/bucket_queue.h"
#include "parallel/buckets/gradient_storage.h"
#include "parallel/ddp/gradient_intake.h"
#include "parallel/ddp/gradient_listener.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"
#include "parallel/ddp/reduced_parameter.h"
#include "parallel/ddp/reducer_context.h"
#include "parallel/ddp/reducer_state.h"
#include "parallel/ddp/reduction_iteration.h"
#include "parallel/ddp/sample_count.h"
#include "parallel/ddp/unfinished_reduction.h"

namespace lockstep {

/// Conducts one model's gradients through a backward: autograd's hooks lead here.
///
/// Step 1 of the gradient data path. The reducer begins an iteration when backward begins, has each
/// gradient put into its bucket, and has complete buckets launched. When the outermost backward
/// ends, it has the other gradients collected and the iteration completed. Its parts do the work:
/// `GradientStorage` has the memory, `BucketAssignments` says which parameter is in which bucket,
/// `BucketQueue` reduces the buckets, `GradientIntake` fills them, and `ReductionIteration` ends
/// the iteration.
/// Owns: its parts, and the lock that guards them.
/// Thread-safety: autograd's hooks may be called from any thread; everything else as the group.
class Reducer : public GradientListener, public std::enable_shared_from_this<Reducer> {
 public:
  /// `needed`: which parameters need gradients at present; at least one does. `pauses`: while it is
  /// not 0, backwards average nothing. `so_far`: the statistics of the reducer before.
  /// Collective: it allocates.
  Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
          std::vector<bool> needed, std::function<NamedTensors()> buffers,
          const DistributedDataParallelOptions& options,
          std::shared_ptr<const std::atomic<int>> pauses, DistributedDataParallelStatistics so_far);
  /// Gradients that somebody still holds do not keep the group's memory.
  ~Reducer() override;
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  // --- from autograd's hooks ---
  /// A backward has reached an output of this model. `is_for_parameters`: it makes gradients of
  /// parameters; only such a backward begins an iteration.
  void reach(SampleCount::Output& output, bool is_for_parameters);
  [[nodiscard]] Claim claim() override;
  void on_gradient(std::size_t index, const at::Tensor& incoming) override;
  void on_gradient_of_another(std::size_t index) override;

  // --- checkpoints ---
  /// What decides how the next backward's gradients are added.
  [[nodiscard]] ReducerState state();
  /// Comes before `restore`, and leaves a backward that threw.
  /// Blocks: as long as buckets of that backward are under way.
  /// Throws: `c10::Error` in the middle of a step, from which nothing else can go on.
  void prepare_to_restore();
  /// Goes on as the reducer whose `state` it was, from the next backward on. `state`: of the same
  /// parameters. No backward is under way, and none was left. Communicates nothing.
  void restore(const ReducerState& state);

  // --- from the program ---
  /// A forward whose outputs may get a backward begins. `samples`: how many it has, if that shows.
  void begin_forward(std::optional<std::int64_t> samples);
  /// The forward has returned; its outputs will be watched.
  void end_forward();
  void show(const at::Tensor& output);
  [[nodiscard]] std::shared_ptr<SampleCount::Output> watch(const at::Tensor& output);
  void set_listeners(std::size_t index, std::shared_ptr<ParameterListeners> listeners);
  /// What this rank counts in the next average by samples.
  void set_samples(std::int64_t samples);
  void set_hook(CommunicationHook hook);
  /// These parameters, at least one, need gradients from the next backward on.
  void set_needed(std::vector<bool> needed);
  /// A forward begins in which no parameter needs a gradient: its backward averages nothing.
  void note_idle();
  /// Tensors that get rank 0's values at the end of the next iteration. The same on all ranks.
  void share_values(const NamedTensors& tensors);
  /// Whether some parameter has a gradient that waits for its average.
  [[nodiscard]] bool has_waiting();
  /// What its successor has to take over. A backward that threw is none of it.
  /// Blocks: as long as buckets of a backward that threw are under way.
  [[nodiscard]] UnfinishedReduction unfinished();
  /// Takes over what the reducer before has left unfinished.
  void take_over(const UnfinishedReduction& unfinished);
  /// Takes part in a backward of the other ranks without gradients of its own. Returns false, and
  /// has done nothing, when no rank had any. `round`: lives as long as models that are trained
  /// together do this once. Blocks: the calling thread. Collective: all ranks.
  [[nodiscard]] bool shadow(const std::shared_ptr<bool>& round);
  /// The first rank that took part with data in the latest backward.
  [[nodiscard]] int first_active_rank();
  /// Whether some rank has made an iteration of zeros since this was last asked.
  [[nodiscard]] bool take_had_shadows();
  /// Gradients that the program holds get memory of their own. No backward is under way.
  void vacate_buckets();
  [[nodiscard]] std::vector<std::size_t> bucket_bytes();
  [[nodiscard]] std::uint64_t steps();
  /// The statistics without the times of forward.
  [[nodiscard]] DistributedDataParallelStatistics statistics();

 private:
  [[nodiscard]] ReducerContext context();
  [[nodiscard]] bool is_paused() const { return *pauses_ != 0; }

  /// Begins an iteration with the backward under way, unless that has begun one.
  void begin_backward();
  /// `samples` is empty where this rank has no data.
  void begin_iteration(std::optional<std::int64_t> samples);
  /// A communication hook wants whole buckets. Collective: it allocates.
  void use_flat_memory();

  void note_ready(std::size_t index);
  void note_progress();

  /// The outermost backward has ended.
  void finish();
  /// Returns whether any rank had data.
  bool complete_iteration();
  /// Calls `complete`. An error in it leaves nothing under way.
  template <typename Function>
  bool complete_by(const Function& complete);
  /// A backward that threw left its buckets half filled. What it had started is finished first.
  void recover();
  /// Does the same unless a backward is under way, and forgets what the program said for the one
  /// that threw: its outputs get no other backward.
  void leave_abandoned();
  /// After an error: waits for what is under way in the buckets' memory.
  void finish_in_flight() noexcept;
  void reset() noexcept;

  native::OwningProcess owner_;
  std::shared_ptr<ProcessGroup> group_;
  DistributedDataParallelOptions options_;
  std::shared_ptr<const std::atomic<int>> pauses_;

  std::mutex mutex_;  // guards what follows
  DistributedDataParallelStatistics statistics_;
  SampleCount samples_;
  GradientStorage storage_;
  std::vector<ReducedParameter> parameters_;
  BucketAssignments assignments_;
  BucketQueue buckets_;
  ReductionIteration iteration_;
  GradientIntake intake_;
};

}  // namespace lockstep
