// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"
#include "parallel/ddp/sample_count.h"
#include "parallel/ddp/tensor_form.h"

namespace lockstep {

class Reducer;

/// What the next backward would have done, beside averaging that backward's gradients.
struct UnfinishedReduction {
  std::vector<at::Tensor> waiting;  ///< parameters whose gradients wait for their average
  NamedTensors shared;              ///< of `GradientReducer::share_values`
  SampleCount samples;
};

/// Averages gradients over the ranks while backward runs.
///
/// Step 1 of the gradient path: autograd tells when a gradient is there; the reducer puts it into
/// its bucket, starts the all-reduce of every bucket that is complete in bucket order (never in
/// order of arrival: that could differ between ranks), and when the outermost backward ends, waits
/// for all of them. Owns: the hooks on the parameters' gradient accumulators, and the buckets.
/// Thread-safety: the hooks may be called from any thread of autograd's; everything else as the
/// group.
class GradientReducer {
 public:
  /// `parameters`: those that need gradients, and others that are likely to need them again,
  /// without repetition, in registration order. `buffers`: what `BufferSync` is about, at the time
  /// of the call. `pauses`: while it is not 0, gradients add up on this rank. `so_far`: of a
  /// predecessor.
  /// Collective.
  GradientReducer(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                  std::function<NamedTensors()> buffers,
                  const DistributedDataParallelOptions& options,
                  std::shared_ptr<const std::atomic<int>> pauses,
                  DistributedDataParallelStatistics so_far);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Whether it has memory for the gradients of these, and all that it knows have the form that
  /// they had.
  [[nodiscard]] bool covers(const NamedTensors& parameters) const;
  /// Whether it knows this one.
  [[nodiscard]] bool knows(const at::Tensor& parameter) const;
  /// LibTorch drops hooks where a parameter gets another dtype or device.
  [[nodiscard]] bool has_lost_hooks() const;
  /// Parameters were frozen or thawed: looks which of them need gradients now. Allocates nothing,
  /// and exchanges nothing: the names of the next calls say it.
  void follow_needs();
  [[nodiscard]] UnfinishedReduction unfinished() const;
  /// Takes that over from a predecessor.
  void take_over(UnfinishedReduction unfinished);
  [[nodiscard]] bool has_waiting() const { return !unfinished().waiting.empty(); }
  /// Tensors that get rank 0's values at the end of the next backward. The same on all ranks.
  void share_values(const NamedTensors& tensors);

  /// A backward that reaches `output` will be taken as one with everything that runs inside it.
  void watch(const at::Tensor& output);
  /// A forward begins in which no parameter needs a gradient, though autograd is on.
  void note_idle();
  /// A forward begins, whose outputs may get a backward. `samples`: if it shows.
  void begin_forward(std::optional<std::int64_t> samples);
  /// It has returned; its outputs will be watched.
  void end_forward();
  /// What this rank counts in the next average by samples.
  void set_samples(std::int64_t samples);
  void set_hook(CommunicationHook hook);
  /// Takes part in a backward of the others without gradients of its own. Returns false, and has
  /// done nothing, when no rank had any. Collective. Blocks.
  [[nodiscard]] bool shadow(const std::shared_ptr<bool>& round);
  /// The first rank that took part with data in the latest backward.
  [[nodiscard]] int first_active_rank() const;
  /// Whether some rank took part without since this was last asked.
  [[nodiscard]] bool take_had_shadows();
  /// Hooks the parameters on the stream that is current now.
  void hook_parameters();

  [[nodiscard]] std::vector<std::size_t> bucket_bytes() const;
  [[nodiscard]] std::uint64_t steps() const;
  /// Without the times of forward.
  [[nodiscard]] DistributedDataParallelStatistics statistics() const;

 private:
  // LibTorch changes what an owning pointer to a node is.
  using Node = decltype(torch::autograd::impl::grad_accumulator(std::declval<at::Tensor>()));

  struct Hooked {
    at::Tensor parameter;
    TensorForm form;
    Node node;  // null while it has no hook
    std::shared_ptr<ParameterListeners> listeners;

    [[nodiscard]] bool is_hooked() const;
  };

  void hook(std::size_t index);
  void unhook(std::size_t index);
  void drop_hooks();

  std::shared_ptr<Reducer> state_;  // hooks hold it weakly: one may still run when this goes
  std::vector<Hooked> hooked_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> index_of_;
};

}  // namespace lockstep
