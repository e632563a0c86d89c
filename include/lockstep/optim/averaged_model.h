// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <lockstep/core/export.h>
#include <lockstep/optim/averaging_functions.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::optim {

/// What an `AveragedModel` is told.
///
/// Thread-safety: a value.
struct AveragedModelOptions {
  /// How to average. Null is the mean of all values, as Python computes it by default.
  TORCH_ARG(MultiAvgFn, multi_avg_fn) = nullptr;
  /// Whether buffers are averaged too. Otherwise each update copies them.
  TORCH_ARG(bool, use_buffers) = false;
  /// Where the averages lie; as a rule beside the parameters.
  TORCH_ARG(std::optional<at::Device>, device) = std::nullopt;
};

/// Averages of a model's parameters over the steps of training (EMA, SWA).
///
///     lockstep::optim::AveragedModel ema(net, lockstep::optim::AveragedModelOptions()
///         .multi_avg_fn(lockstep::optim::get_ema_multi_avg_fn(0.999)));
///     ...
///     optimizer.step();
///     ema.update();
///
/// The first update copies the parameters, later ones average. With equal parameters on all ranks,
/// averages are equal. It takes the module inside a `DistributedDataParallel`, which must outlive
/// it, with the same names, shapes and dtypes all the time. Tied parameters are averaged once.
///
/// Thread-safety: as the module's.
/// Owns: a copy of all parameters and buffers; while weights are swapped, another one.
/// Throws: each member, `c10::Error` where it says so, and for a module whose tensors have changed
/// otherwise than in value.
/// Source: Python's `torch.optim.swa_utils.AveragedModel`, with its bits.
class LOCKSTEP_API AveragedModel {
  struct Core;

 public:
  /// Averages of `model`.
  explicit AveragedModel(torch::nn::Module& model, const AveragedModelOptions& options = {});
  /// The same for a module of `TORCH_MODULE`.
  template <class Contained>
  explicit AveragedModel(const torch::nn::ModuleHolder<Contained>& model,
                         const AveragedModelOptions& options = {})
      : AveragedModel(static_cast<torch::nn::Module&>(*model.ptr()), options) {}
  ~AveragedModel();
  AveragedModel(const AveragedModel&) = delete;
  AveragedModel& operator=(const AveragedModel&) = delete;

  /// Takes the parameters of now into the averages. Comes after the optimizer's step.
  /// Throws: while weights are swapped, and once where somebody trained while they were.
  void update();

  /// The averages are the weights of the model while one of these lives: for an evaluation.
  ///
  /// Gradients are off meanwhile in the thread that made it, so that nobody trains the averages: a
  /// backward throws. The end copies the weights of training back, bit for bit, and keeps what the
  /// evaluation did to buffers (`update_bn`) in the average. Where parameters have been written to,
  /// by an optimizer for example, that is dropped: `restore` throws, and after a guard that ended
  /// without `restore`, the next call of `update`, `swap` or `state` does.
  ///
  /// Thread-safety: it ends in the thread that made it.
  class LOCKSTEP_API Swap {
   public:
    /// Made by `AveragedModel::swap`.
    explicit Swap(std::shared_ptr<Core> core);
    /// Brings the weights of training back.
    ~Swap();
    Swap(const Swap&) = delete;
    Swap& operator=(const Swap&) = delete;
    /// Does now what the end of the guard does; that does nothing then.
    /// Throws: `c10::Error` where parameters have been written to. The weights of training are
    /// back.
    void restore();

   private:
    std::shared_ptr<Core> core_;
    std::optional<at::NoGradGuard> no_gradients_;
  };

  /// Makes the averages the weights of the model until the guard ends. A deferred save reads
  /// parameters in place: call `Checkpointer::before_step` before.
  /// Throws: while weights are swapped already. Then, and where memory runs out, the model has not
  /// changed.
  [[nodiscard]] Swap swap() { return Swap(core_); }
  /// Whether a guard lives.
  [[nodiscard]] bool is_swapped() const noexcept;

  /// How many updates there were.
  [[nodiscard]] std::int64_t n_averaged() const noexcept;
  /// The averages of parameters and buffers, by the names that they have in the model. The tensors
  /// are the averages themselves.
  [[nodiscard]] std::map<std::string, at::Tensor> averages() const;

  /// For a checkpoint, under Python's names: `n_averaged`, and `module.NAME` for each of
  /// `averages()`. How to average is no part of it.
  /// Throws: while weights are swapped: the model in the same checkpoint would have the averages.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// Goes on as the one whose `state` it was.
  /// Throws: for other names, shapes or dtypes, before anything has changed; while weights are
  /// swapped.
  void load_state(const std::map<std::string, at::Tensor>& state);
  /// Does all of `load_state` but changing the averages, which calling the result does.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::map<std::string, at::Tensor>& state);

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace lockstep::optim
