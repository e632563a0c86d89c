// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/detail/step_batch.h>
#include <lockstep/parallel/detail/wrapped_module.h>
#include <torch/arg.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace torch::optim {
class Optimizer;
}

namespace lockstep {

class DistributedDataParallelBase;
class GroupCore;  // src/comm/group/group_core.h
namespace native {
class GraphStream;  // src/native/cuda/graph_stream.h
}

/// What a `GraphedStep` is told. The same on all ranks.
///
/// Thread-safety: a value.
struct GraphedStepOptions {
  /// How many calls run as they are before one is captured, 2 or more: memory, libraries and the
  /// optimizer's state come to be in them. A model that tunes its buckets has more of them.
  TORCH_ARG(std::size_t, eager_steps) = 3;
};

/// The part of `GraphedStep` that does not depend on its types.
///
/// Thread-safety: as `GraphedStep`.
class LOCKSTEP_API GraphedStepBase {
 public:
  GraphedStepBase(const GraphedStepBase&) = delete;
  GraphedStepBase& operator=(const GraphedStepBase&) = delete;

  /// Whether steps are run by a graph by now. Never on the CPU.
  [[nodiscard]] bool is_captured() const;
  /// How many steps were made.
  [[nodiscard]] std::size_t steps() const noexcept { return steps_; }
  /// How often a step was captured: again after the optimizer's options have changed, or where
  /// parameters or momentum lie (a checkpoint was loaded), or which parameters need gradients.
  [[nodiscard]] std::size_t captures() const noexcept { return captures_; }

  // What `GraphedStep` uses: no part of the reference.
  /// @cond backends
 protected:
  using ComputeLoss = std::function<at::Tensor()>;

  /// `example`: the tensors of the example batch. `stream`: null where steps are never captured.
  GraphedStepBase(std::shared_ptr<torch::nn::Module> module, torch::optim::Optimizer& optimizer,
                  const std::vector<at::Tensor>& example, const GraphedStepOptions& options,
                  std::shared_ptr<native::GraphStream> stream);
  ~GraphedStepBase();
  /// A stream of the module's device; null on the CPU.
  /// Throws: `c10::Error` for an empty module, and for one on several devices.
  [[nodiscard]] static std::shared_ptr<native::GraphStream> stream_for(
      const std::shared_ptr<torch::nn::Module>& module);

  /// Memory of its own for a tensor of the example, from which captured steps read. Without a
  /// stream, the tensor itself.
  [[nodiscard]] at::Tensor make_input(const at::Tensor& example);
  /// `of_batch` computes the loss of the batch, `of_inputs` that of the tensors of `make_input`.
  [[nodiscard]] at::Tensor step(const std::vector<at::Tensor>& batch, const ComputeLoss& of_batch,
                                const ComputeLoss& of_inputs);
  /// @endcond

 private:
  struct Form;  // of a tensor of the batch

  void check(const std::vector<at::Tensor>& batch) const;
  void check_models() const;
  [[nodiscard]] at::Tensor eager_step(const ComputeLoss& compute_loss);
  [[nodiscard]] at::Tensor graphed_step(const ComputeLoss& compute_loss);
  void drop_graph();
  /// Drops a graph that reads or writes memory which is not the model's or the optimizer's now.
  void follow_places();
  /// Where a graph finds parameters, buffers and momentum, and which parameters need gradients.
  [[nodiscard]] std::vector<const void*> places() const;
  void capture(const ComputeLoss& compute_loss);
  /// Captures `body`, and learns of the groups whose calls are in it.
  void capture_calls(const std::function<void()>& body);
  void replay();
  /// What a captured optimizer's step has as constants; empty: its step is never captured.
  [[nodiscard]] std::vector<double> constants() const;

  std::shared_ptr<torch::nn::Module> module_;
  std::vector<DistributedDataParallelBase*> models_;  // in `module_`
  std::vector<at::Tensor> parameters_, buffers_;
  torch::optim::Optimizer& optimizer_;
  // Whose calls are in the graph, or were in the last one. They go after the graph: a communicator
  // ends only when its graphs are gone.
  std::vector<std::shared_ptr<GroupCore>> groups_;
  std::shared_ptr<native::GraphStream> stream_;
  c10::Device device_;
  std::vector<Form> forms_;
  std::vector<at::Tensor> inputs_;
  std::size_t eager_until_;  // this many steps were made
  std::size_t steps_ = 0;
  std::size_t captures_ = 0;
  std::vector<double> captured_constants_;
  std::vector<const void*> captured_places_;
  at::Tensor loss_;                    // where the graph writes it
  std::vector<at::Tensor> gradients_;  // likewise
};

/// A training step that runs as one CUDA graph: forward, backward with the averaging of gradients,
/// and the optimizer's step. A step of a small model then costs the host one call instead of one
/// for each kernel.
///
///     lockstep::GraphedStep graphed(model, optimizer, loss_fn, example);
///     for (auto& batch : loader) auto loss = graphed(batch);
///
/// Each call is one step on that batch, as `zero_grad`, forward, `backward` and `step` would be,
/// with the same bits. The first calls run as they are, then one is captured, and the others run
/// the graph. On the CPU all of them run as they are, so one program serves every device and every
/// world.
///
/// `loss_fn` is called with the model and a batch, or with the batch alone where that is no tensor,
/// or with the output of the model's forward and the target, where a batch has `data` and `target`
/// or is a pair of these, or with the output where the batch is a tensor.
/// It gives a loss of one element. In the graph, it runs once: it reads nothing on the host
/// (`item`), and its random numbers come from the device's default generator. Without `loss_fn`'s
/// help the graph cannot see what the host decides, so there is no `GradScaler` in it; bfloat16
/// needs none.
///
/// Batches have the sizes and dtypes of `example`, and are copied into memory that the graph reads:
/// they may be in pinned memory or on any device. The optimizer's step is part of the graph for
/// `torch::optim::SGD` and `lockstep::optim::SGD`; when their options change, the next call
/// captures anew. Other optimizers count steps on the host, so their step follows the graph.
/// Gradients stay where the graph writes them, and nothing comes between backward and the step: no
/// clipping, and no accumulation. After a checkpoint was loaded, or parameters were moved, frozen
/// or thawed, two steps run as they are before the next capture.
///
/// A wrapped model needs `static_graph`, NCCL where there are several ranks, and
/// `BufferSync::Local`; a call under `no_sync` is refused. Each group whose calls are in the graph,
/// also those of `loss_fn`, has its time-out for it, and `close` of such a group drops the graph.
/// The model's `statistics` stand still while graphs run.
///
/// Collective: construction and calls, where the model is wrapped.
/// Thread-safety: the thread that made it.
/// Owns: a stream, the graph, and its memory. Model and optimizer must live as long.
/// Throws: `c10::Error` for a model that cannot be captured, on the CPU too; for a batch of another
/// form than the example; for a step that the device refuses to capture. What a step throws.
template <typename Model, typename LossFunction, typename Batch>
class GraphedStep : public GraphedStepBase {
  static_assert(detail::WrapsModule<Model>,
                "GraphedStep: the model must be a module holder (the Name that TORCH_MODULE(Name) "
                "makes of NameImpl), a DistributedDataParallel, a std::shared_ptr to a module, or "
                "torch::nn::AnyModule");
  static_assert(
      detail::ComputesLoss<LossFunction, Model, Batch>,
      "GraphedStep: loss_fn must take (model, batch), or (batch) where that is no tensor, or "
      "(output, target) where the batch has data and target or is a pair, or (output) where the "
      "batch is a tensor; and give a tensor");

 public:
  /// `example`: a batch; only its form matters.
  /// Throws: `c10::Error` for an example without a tensor, and as the class says.
  GraphedStep(Model model, torch::optim::Optimizer& optimizer, LossFunction loss_fn, Batch example,
              const GraphedStepOptions& options = {})
      : GraphedStepBase(detail::module_of(model), optimizer, detail::batch_tensors(example),
                        options, stream_for(detail::module_of(model))),
        model_(std::move(model)),
        loss_fn_(std::move(loss_fn)),
        graph_batch_(std::move(example)) {
    detail::for_each_batch_tensor(graph_batch_,
                                  [this](at::Tensor& tensor) { tensor = make_input(tensor); });
  }

  /// Makes a step. Returns its loss, without a graph of autograd.
  at::Tensor operator()(const Batch& batch) {
    return step(
        detail::batch_tensors(batch), [&] { return detail::loss_of(loss_fn_, model_, batch); },
        [this] { return detail::loss_of(loss_fn_, model_, std::as_const(graph_batch_)); });
  }

 private:
  Model model_;
  LossFunction loss_fn_;
  Batch graph_batch_;  // from which the graph reads
};

}  // namespace lockstep
