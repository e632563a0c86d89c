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
#include "parallel/buckets/bucket_assignment.h"
#include "parallel/buckets/bucket_queue.h"
#include "parallel/buckets/gradient_storage.h"
#include "parallel/ddp/gradient_intake.h"
#include "parallel/ddp/gradient_listener.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"
#include "parallel/ddp/reduced_parameter.h"
#include "parallel/ddp/reducer_context.h"
#include "parallel/ddp/reduction_cycle.h"
#include "parallel/ddp/sample_count.h"

namespace lockstep {

/// Conducts one model's gradients through a backward: autograd's hooks lead here.
///
/// Step 1 of the gradient path. It begins a cycle when backward does, has each gradient put into
/// its bucket and complete buckets launched, and when the outermost backward ends, what is left,
/// and the cycle completed. Its parts do the rest: `GradientStorage` has the memory,
/// `BucketAssignment` the plan, `BucketQueue` the buckets, `GradientIntake` fills them,
/// `ReductionCycle` knows the end.
/// Owns: these, and the lock that guards them. Thread-safety: the hooks may be called from any
/// thread of autograd's; everything else as the group.
class Reducer : public GradientListener, public std::enable_shared_from_this<Reducer> {
 public:
  /// `planned`: which parameters need gradients at present; not none. `pauses`: while it is not 0,
  /// backwards average nothing. `so_far`: of a predecessor.
  Reducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
          std::vector<bool> planned, std::function<NamedTensors()> buffers,
          const DistributedDataParallelOptions& options,
          std::shared_ptr<const std::atomic<int>> pauses, DistributedDataParallelStatistics so_far);
  /// Gradients that somebody still holds do not keep the group's memory.
  ~Reducer() override;
  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  // --- from autograd's hooks ---
  /// Some backward has reached an output. `is_for_parameters`: it makes gradients of parameters,
  /// and so begins, as far as this model is concerned.
  void reach(SampleCount::Output& output, bool is_for_parameters);
  [[nodiscard]] Claim claim() override;
  void on_gradient(std::size_t index, const at::Tensor& incoming) override;
  void on_gradient_of_another(std::size_t index) override;

  // --- from the program ---
  /// A forward whose outputs may get a backward begins. `samples`: if it shows.
  void begin_forward(std::optional<std::int64_t> samples);
  /// It has returned; its outputs will be watched.
  void end_forward();
  void show(const at::Tensor& output);
  [[nodiscard]] std::shared_ptr<SampleCount::Output> watch(const at::Tensor& output);
  void set_listeners(std::size_t index, std::shared_ptr<ParameterListeners> listeners);
  /// What this rank counts in the next average by samples.
  void set_samples(std::int64_t samples);
  void set_hook(CommunicationHook hook);
  /// These need gradients from the next backward on; not none.
  void plan_for(std::vector<bool> planned);
  /// A forward begins in which no parameter needs a gradient: its backward averages nothing.
  void note_idle();
  /// Which parameters have a gradient that waits for its average.
  [[nodiscard]] std::vector<bool> waiting();
  /// Takes over from a predecessor that these wait.
  void set_waiting(const std::vector<bool>& waiting);
  /// Tensors that get rank 0's values at the end of the next cycle. The same on all ranks.
  void share_values(NamedTensors tensors);
  [[nodiscard]] SampleCount sample_count();
  /// Takes it over from a predecessor.
  void set_sample_count(SampleCount samples);
  [[nodiscard]] NamedTensors shared_values();
  /// Takes part in a backward of the others without gradients of its own. Returns false, and has
  /// done nothing, when no rank had any. `round`: lives as long as models that are trained together
  /// do this once. Collective. Blocks.
  [[nodiscard]] bool shadow(const std::shared_ptr<bool>& round);
  /// The first rank that took part with data in the latest backward.
  [[nodiscard]] int first_active_rank();
  /// Whether some rank has made a cycle of zeros since this was last asked.
  [[nodiscard]] bool take_had_shadows();
  [[nodiscard]] std::vector<std::size_t> bucket_bytes();
  [[nodiscard]] std::uint64_t steps();
  /// Without the times of forward.
  [[nodiscard]] DistributedDataParallelStatistics statistics();

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] ReducerContext context();
  [[nodiscard]] bool is_paused() const { return *pauses_ != 0; }
  [[nodiscard]] GradientBucket& bucket_of(const ReducedParameter& parameter) {
    return buckets_.at(parameter.bucket);
  }
  void begin_locked();
  [[nodiscard]] std::int64_t count_samples();
  /// Without samples: this rank has no data.
  void begin_cycle(std::optional<std::int64_t> samples);
  /// A communication hook wants whole buckets. Collective.
  void use_flat_memory();
  /// Makes the buckets of the plan in use.
  void divide();

  void note_ready(std::size_t index);
  void note_progress();

  void finish();
  /// Returns whether any rank had data.
  bool complete_cycle();
  /// Completes the cycle by that; an error leaves nothing under way.
  template <typename Function>
  bool complete_by(const Function& complete);
  /// A backward that threw left its buckets half filled; what it had started is finished first.
  void recover();
  /// After an error: waits for what is under way in the buckets' memory.
  void finish_in_flight() noexcept;
  void reset() noexcept;

  native::OwningProcess owner_;
  std::shared_ptr<ProcessGroup> group_;
  DistributedDataParallelOptions options_;
  std::shared_ptr<const std::atomic<int>> pauses_;

  std::mutex mutex_;  // guards what follows
  std::vector<ReducedParameter> parameters_;
  DistributedDataParallelStatistics statistics_;
  SampleCount samples_;
  GradientStorage storage_;
  BucketAssignment assignment_;
  BucketQueue buckets_;
  ReductionCycle cycle_;
  GradientIntake intake_;
};

}  // namespace lockstep
