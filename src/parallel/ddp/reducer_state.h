// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "native/posix/owning_process.h"
#include "parallel/buckets/bucket_planner.h"
#include "parallel/buckets/gradient_arena.h"
#include "parallel/buckets/gradient_bucket.h"
#include "parallel/buckets/plan_learner.h"
#include "parallel/buckets/planned_set.h"
#include "parallel/buckets/reduction_summary.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"
#include "parallel/ddp/sample_count.h"

namespace lockstep {

/// What the reducer knows of its parameters and of the backward under way: its hooks lead here.
///
/// A *cycle* is what all ranks do together for one backward: the all-reduce of every bucket in
/// order, then the summary. A rank without data makes a cycle of zeros.
///
/// Memory is there for all parameters; buckets are divided among those that are *planned*: of the
/// set that needs gradients at present. A gradient of any other one (it waited for its average when
/// the parameter was frozen, or it was thawed since the last forward) is reduced by itself, as late
/// ones.
class ReducerState : public std::enable_shared_from_this<ReducerState> {
 public:
  /// `planned`: which parameters need gradients at present; not none. `pauses`: while it is not 0,
  /// backwards average nothing. `so_far`: of a predecessor.
  ReducerState(std::shared_ptr<ProcessGroup> group, NamedTensors parameters,
               std::vector<bool> planned, std::function<NamedTensors()> buffers,
               const DistributedDataParallelOptions& options,
               std::shared_ptr<const std::atomic<int>> pauses,
               DistributedDataParallelStatistics so_far);
  /// Gradients that somebody still holds do not keep the group's memory.
  ~ReducerState();
  ReducerState(const ReducerState&) = delete;
  ReducerState& operator=(const ReducerState&) = delete;

  // --- from autograd's hooks ---
  /// Some backward has reached an output. `is_for_parameters`: it makes gradients of parameters,
  /// and so begins, as far as this model is concerned.
  void reach(SampleCount::Output& output, bool is_for_parameters);
  /// Why a gradient may be this model's rather than another's that has the parameter too. From the
  /// weakest reason to the strongest: it is as good as any, it had a forward whose outputs nobody
  /// can watch, this backward has reached an output; each time one that averages goes before one
  /// that accumulates.
  struct Claim {
    enum class Reason { Paused, Idle, PausedHidden, Hidden, PausedReached, Reached };
    Reason reason = Reason::Idle;
    std::chrono::steady_clock::time_point since;  // of `Reached`: the first one's memory is lent
    [[nodiscard]] bool is_weaker_than(const Claim& other) const {
      return reason != other.reason ? reason < other.reason : since > other.since;
    }
  };
  [[nodiscard]] Claim claim();
  /// `incoming`: what autograd made the gradient of.
  void on_gradient(std::size_t index, const at::Tensor& incoming);
  /// The same of a gradient that another model that shares the parameter has taken.
  void on_gradient_of_another(std::size_t index);

  // --- from the program ---
  /// A forward whose outputs may get a backward begins. `samples`: if it shows.
  void begin_forward(std::optional<std::int64_t> samples);
  void end_forward();
  void show(const at::Tensor& output);
  [[nodiscard]] std::shared_ptr<SampleCount::Output> watch(const at::Tensor& output);
  void set_listeners(std::size_t index, std::shared_ptr<ParameterListeners> listeners);
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
  /// `round`: lives as long as models that are trained together do this once.
  [[nodiscard]] bool shadow(const std::shared_ptr<bool>& round);
  [[nodiscard]] int first_active_rank();
  /// Whether some rank has made a cycle of zeros since this was last asked.
  [[nodiscard]] bool take_had_shadows();
  [[nodiscard]] std::vector<std::size_t> bucket_bytes();
  [[nodiscard]] std::uint64_t steps();
  [[nodiscard]] DistributedDataParallelStatistics statistics();

 private:
  using Clock = std::chrono::steady_clock;

  struct Parameter {
    std::string name;
    at::Tensor tensor;
    bool is_planned = false;
    std::shared_ptr<ParameterListeners> listeners;
    std::size_t bucket = 0;  // this and the place: if it is planned
    std::size_t place = 0;
    int expected = 1;  // gradients in a backward; how many the one before had
    // In this backward:
    int count = 0;
    bool is_sparse = false;
    bool is_late = false;    // has a gradient that its bucket did not take
    bool is_shared = false;  // another model that has it took one
    at::Tensor aside;        // what its bucket cannot take: late gradients, sparse ones
    at::Tensor kept;         // its gradient if no rank used it
    at::Tensor late;         // the average of those that no bucket took, where it is not planned
    // Since the last average:
    bool is_used = false;
    // On any rank, in the last cycle with a summary:
    bool was_used = true;
    bool was_sparse = false;
    bool was_dense = true;
  };

  /// Group memory for the gradients of one dtype and device.
  struct Memory {
    at::ScalarType dtype = at::kFloat;
    c10::Device device = c10::kCPU;
    std::vector<std::size_t> parameters;
    at::Tensor flat;                       // buckets are parts of it; or:
    std::shared_ptr<GradientArena> arena;  // gradients lie anywhere in it
    at::Tensor places;                     // where
    std::vector<std::size_t> numbers;      // in the arena, of all parameters
  };

  [[nodiscard]] GradientBucket& bucket_of(const Parameter& parameter) {
    return *buckets_[parameter.bucket];
  }

  // reducer_memory.cpp
  void allocate();
  /// Whether gradients of this kind can lie wherever autograd puts them. `obstacle`: why they
  /// cannot, if it is no choice.
  [[nodiscard]] bool allocate_arena(Memory& memory, std::string& obstacle);
  void allocate_flat(Memory& memory);
  [[nodiscard]] bool has_arena() const;
  /// A communication hook wants whole buckets. Collective.
  void use_flat_memory();
  [[nodiscard]] std::unique_ptr<GradientBucket> make_bucket(const BucketPlan& plan,
                                                            std::vector<std::int64_t>& used,
                                                            const std::vector<at::Tensor>& tensors);
  /// Autograd, which runs in this thread, may put gradients into the arenas, until the graph that
  /// is being worked on is done or dropped, or `close_arenas`.
  void open_arenas();
  void close_arenas() noexcept;
  /// Moves gradients that somebody holds to memory of their own.
  void vacate() noexcept;

  // reducer_plan.cpp
  /// The set that is wanted is the one from now on, by its plan.
  void follow_set();
  [[nodiscard]] PlannedSet& find_set();
  void divide();
  /// What stands in the names of this model's calls.
  [[nodiscard]] std::string call_name(const std::string& what) const;

  // reducer_state.cpp
  [[nodiscard]] bool is_paused() const { return *pauses_ != 0; }
  void begin_locked();
  /// Without samples: this rank has no data.
  void begin_cycle(std::optional<std::int64_t> samples);
  [[nodiscard]] std::int64_t count_samples();
  void take(Parameter& parameter, const at::Tensor& incoming = {});
  /// From the parameter to `aside`.
  void set_aside(Parameter& parameter);
  void note_ready(std::size_t index);
  void launch_complete_buckets();
  void launch(GradientBucket& bucket);
  /// A backward that threw left its buckets half filled; what it had started is finished first.
  void recover();
  void reset() noexcept;
  /// After an error: waits for what is under way in the buckets' memory.
  void settle() noexcept;
  /// Buckets that have been reduced meanwhile, in their order.
  void note_reduced();

  // reducer_cycle.cpp
  void finish();
  /// Returns whether any rank had data.
  bool complete_cycle();
  void wait_for_buckets();
  [[nodiscard]] bool has_summary() const;
  void launch_summary();
  /// What a parameter that is not planned has all the same.
  void note_left_over(Parameter& parameter);
  /// Adds to the text what this rank has frozen.
  void explain(MismatchError& error) const;
  /// Throws: `MismatchError` on all ranks where they do not belong to the same backward.
  void check_summary();
  [[nodiscard]] double factor();
  void add_late_gradients();
  void give_all(double factor);
  void note_usage(std::size_t index);
  /// Makes it the parameter's gradient, or adds it to what another model made that.
  void give(Parameter& parameter, const at::Tensor& average);
  [[nodiscard]] at::Tensor sparse_average(const Parameter& parameter, double factor);
  void synchronize_buffers();
  void learn();

  native::OwningProcess owner_;
  std::shared_ptr<ProcessGroup> group_;
  std::function<NamedTensors()> buffers_;  // those that there are when it is called
  DistributedDataParallelOptions options_;
  std::shared_ptr<const std::atomic<int>> pauses_;
  std::vector<GradientShape> shapes_;

  std::mutex mutex_;  // guards what follows
  std::vector<Parameter> parameters_;
  std::vector<Memory> memories_;
  std::vector<std::unique_ptr<GradientBucket>> buckets_;
  std::optional<ReductionSummary> summary_;
  std::list<PlannedSet> sets_;  // the one in use first
  std::vector<bool> planned_;   // wanted from the next backward on
  bool is_other_set_ = false;   // than in the cycle before
  bool had_idle_ = false;       // forwards without parameters that need gradients
  NamedTensors shared_;         // get rank 0's values at the end of this cycle
  CommunicationHook hook_;
  SampleCount samples_;
  std::int64_t nominal_ = 0;  // samples that a rank usually has; 0: not known yet

  bool is_in_cycle_ = false;
  std::weak_ptr<bool> backward_;  // lives as long as the backward under way
  std::weak_ptr<void>
      accumulation_;          // the same while paused; as long as the arenas are open for it
  bool has_failed_ = false;   // others may still write to what was in buckets
  std::size_t launched_ = 0;  // buckets, in their order
  std::size_t let_go_ = 0;    // of these, known to be reduced
  double scale_ = 1;          // of this rank's gradients in this cycle
  std::uint64_t cycles_ = 0;
  int first_active_rank_ = 0;
  bool had_shadows_ = false;

  Clock::time_point cycle_begin_, first_launch_, last_reduced_;
  DistributedDataParallelStatistics statistics_;
};

}  // namespace lockstep
