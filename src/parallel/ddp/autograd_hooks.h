// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <atomic>
#include <functional>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "parallel/ddp/module_state.h"
#include "parallel/ddp/parameter_listeners.h"
#include "parallel/ddp/reducer.h"
#include "parallel/ddp/sample_count.h"
#include "parallel/ddp/tensor_form.h"

namespace lockstep {

/// The hooks by which autograd calls a model's reducer: on the parameters' gradient accumulators,
/// and on outputs of forward.
///
/// The hooks tell the reducer when backward reaches an output and when a gradient is there. This
/// class registers them, and again where LibTorch dropped them.
/// Owns: the hooks, and the reducer. Thread-safety: as the group; hooks that are running hold the
/// reducer themselves.
class AutogradHooks {
 public:
  /// `parameters`: those that need gradients, and others that are likely to need them again,
  /// without repetition, in registration order. `buffers` returns the buffers for `BufferSync` that
  /// there are when it is called. `pauses`: while it is not 0, gradients add up on this rank.
  /// `so_far`: the statistics of the reducer before.
  /// Collective: it allocates.
  AutogradHooks(std::shared_ptr<ProcessGroup> group, const NamedTensors& parameters,
                std::function<NamedTensors()> buffers,
                const DistributedDataParallelOptions& options,
                std::shared_ptr<const std::atomic<int>> pauses,
                DistributedDataParallelStatistics so_far);
  ~AutogradHooks();
  AutogradHooks(const AutogradHooks&) = delete;
  AutogradHooks& operator=(const AutogradHooks&) = delete;

  /// Whether the reducer has memory for the gradients of these parameters, and all parameters that
  /// it knows have the form that they had.
  [[nodiscard]] bool covers(const NamedTensors& parameters) const;
  /// Whether the reducer knows this parameter.
  [[nodiscard]] bool knows(const at::Tensor& parameter) const;
  /// All parameters that the reducer knows, in its order.
  [[nodiscard]] const NamedTensors& parameters() const noexcept { return parameters_; }
  /// LibTorch drops hooks where a parameter gets another dtype or device.
  [[nodiscard]] bool has_lost_hooks() const;
  /// Parameters were frozen or thawed: looks which of them need gradients now. It allocates nothing
  /// and exchanges nothing; the names of the next calls tell the other ranks.
  void follow_needs();

  /// Hooks `output`, so that a backward that reaches it averages when the outermost graph is done.
  void watch(const at::Tensor& output);
  /// Hooks the parameters on the stream that is current now.
  void hook_parameters();
  [[nodiscard]] Reducer& reducer() const noexcept { return *reducer_; }

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

  std::shared_ptr<Reducer> reducer_;  // hooks hold it weakly: one may still run when this goes
  NamedTensors parameters_;
  std::vector<Hooked> hooked_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> index_of_;
};

}  // namespace lockstep
