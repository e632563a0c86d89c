// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>
#include <torch/optim/optimizer.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {
class ProcessGroup;  // <lockstep/comm/process_group.h>
}  // namespace lockstep

namespace lockstep::amp {

/// What a `GradScaler` is told; names and defaults are Python's.
///
/// Thread-safety: a value.
struct GradScalerOptions {
  /// The scale at the start.
  TORCH_ARG(double, init_scale) = 65536.0;
  /// By what the scale is multiplied after `growth_interval` steps without an overflow; above 1.
  TORCH_ARG(double, growth_factor) = 2.0;
  /// By what the scale is multiplied after a step with one; between 0 and 1.
  TORCH_ARG(double, backoff_factor) = 0.5;
  /// After how many such steps in a row the scale grows; at least 1.
  TORCH_ARG(std::int64_t, growth_interval) = 2000;
  /// Whether to do anything; otherwise `step` is the optimizer's, and all else has no effect.
  TORCH_ARG(bool, enabled) = true;
  /// The ranks that skip a step together. None: each rank decides by its own gradients.
  TORCH_ARG(std::shared_ptr<ProcessGroup>, group) = nullptr;
};

/// Keeps small gradients of a model that computes in `kHalf` from becoming zero: it multiplies the
/// loss by a scale, divides the gradients by it, skips the optimizer's step where a gradient is
/// infinite or no number, and adapts the scale.
///
///     scaler.scale(loss).backward();
///     scaler.unscale_(optimizer);            // only for programs that look at gradients or clip
///     scaler.step(optimizer);
///     scaler.update();
///
/// `kBFloat16` has the range of float, and needs no scaler.
///
/// **Ranks.** With `group`, the ranks agree in each `step`: where one has found an overflow, none
/// steps, and all of them change their scale alike. Gradients that `DistributedDataParallel` has
/// averaged carry an overflow to all ranks by themselves; what needs the group are gradients of a
/// rank's own (a step after `no_sync`, parameters outside of the model), ranks that join, and
/// scales or options that are not the same on all ranks, which are an error then. A rank that joins
/// calls `step` and `update` in the function that it gives to `join`.
///
/// Collective: with `group`, `step`, and `update` where an optimizer had `unscale_` and no `step`:
/// one all-reduce of a hundred bytes each.
/// Thread-safety: one thread at a time; with `group`, one that may use it.
/// Throws: `c10::Error` for options out of range and calls in another order.
/// Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018; Python's
/// `torch.amp.GradScaler`, with its bits.
class LOCKSTEP_API GradScaler {
 public:
  /// A scaler whose scale is made on the device of the first loss.
  explicit GradScaler(const GradScalerOptions& options = {});
  GradScaler(const GradScaler&) = delete;
  GradScaler& operator=(const GradScaler&) = delete;

  /// The product of a loss, on any device, and the scale.
  [[nodiscard]] at::Tensor scale(const at::Tensor& outputs);
  /// The same for each of several.
  [[nodiscard]] std::vector<at::Tensor> scale(const std::vector<at::Tensor>& outputs);

  /// Divides the gradients of this optimizer's parameters by the scale, and finds out whether all
  /// are finite. `step` does that where the program has not. A parameter that is there several
  /// times is divided once. The host waits for no device.
  /// Throws: for gradients in `kHalf`, which have lost already what the scaler is for; where this
  /// has been called since the last `update`, or `step` has; where nothing was scaled.
  void unscale_(torch::optim::Optimizer& optimizer);

  /// Steps, unless a gradient is infinite or no number, and returns whether it did. The host waits
  /// for the gradients, as the choice is its own.
  ///
  /// Blocks: with a group, the calling thread.
  /// Collective: with a group, all ranks step the same optimizers in the same order.
  /// Throws: as `unscale_`; where no parameter, of any rank, has a gradient; `MismatchError` for
  /// another scale or other options on another rank, before anything has been stepped; what a
  /// collective throws.
  bool step(torch::optim::Optimizer& optimizer);

  /// Adapts the scale to what all optimizers since the last `update` have found.
  ///
  /// Blocks: nothing, as a rule.
  /// Collective: with a group, where an optimizer had `unscale_` but no `step`, on all ranks alike.
  /// Throws: where no optimizer had `unscale_` or `step`.
  void update();
  /// Sets the scale instead. Steps in a row are counted on.
  /// Throws: for a scale that is not positive and finite.
  void update(double new_scale);
  /// Sets the scale to the value of a tensor, without waiting for its device.
  /// Shapes: one element.
  void update(const at::Tensor& new_scale);

  /// The scale; 1 if the scaler is not enabled. The host waits for the device.
  [[nodiscard]] double get_scale() const;
  /// See `GradScalerOptions`.
  [[nodiscard]] double get_growth_factor() const noexcept { return options_.growth_factor(); }
  /// See `GradScalerOptions`.
  [[nodiscard]] double get_backoff_factor() const noexcept { return options_.backoff_factor(); }
  /// See `GradScalerOptions`.
  [[nodiscard]] std::int64_t get_growth_interval() const noexcept {
    return options_.growth_interval();
  }
  /// See `GradScalerOptions`.
  void set_growth_factor(double factor);
  /// See `GradScalerOptions`.
  void set_backoff_factor(double factor);
  /// See `GradScalerOptions`.
  void set_growth_interval(std::int64_t interval);
  /// Whether it does anything.
  [[nodiscard]] bool is_enabled() const noexcept { return options_.enabled(); }

  /// For a checkpoint, under Python's names: `scale`, `growth_factor`, `backoff_factor`,
  /// `growth_interval` and `_growth_tracker`, the number of steps in a row. Empty if the scaler is
  /// not enabled.
  /// Throws: between `unscale_` or `step` and `update`.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// Goes on as the one whose `state` it was. Nothing, if this scaler is not enabled.
  /// Throws: for other names and for values out of range, before anything has changed.
  void load_state(const std::map<std::string, at::Tensor>& state);
  /// Does all of `load_state` but changing the scaler, which calling the result does.
  /// Throws: as `load_state`.
  [[nodiscard]] std::function<void()> prepare_state(const std::map<std::string, at::Tensor>& state);

 private:
  enum class Stage { Ready, Unscaled, Stepped };
  /// What happened since the last update.
  struct Iteration {
    const torch::optim::Optimizer* optimizer;
    Stage stage = Stage::Ready;
    std::vector<at::Tensor> found_inf = {};  // 1 where it is so; one a device with gradients
  };

  Iteration& iteration_of(const torch::optim::Optimizer& optimizer);
  void make_scale(at::Device device);
  void check_scaled(const char* call) const;
  void unscale(torch::optim::Optimizer& optimizer, Iteration& iteration);
  [[nodiscard]] bool found_overflow(const Iteration& iteration) const;
  [[nodiscard]] bool agree(std::vector<at::Tensor>& found_inf);

  GradScalerOptions options_;
  bool has_scaled_ = false;  // ever
  std::int64_t init_growth_tracker_ = 0;
  at::Tensor scale_;                   // float; undefined until the first loss
  at::Tensor growth_tracker_;          // int32, beside it
  std::vector<Iteration> iterations_;  // in the order of the calls, which is the same on all ranks
};

}  // namespace lockstep::amp
