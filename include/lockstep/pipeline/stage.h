// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/detail/wrapped_module.h>
#include <lockstep/pipeline/detail/stage_call.h>

#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::pipeline {

/// A part of a model that a pipeline runs as one: a module, or a function with the modules it uses.
///
/// Its inputs are the outputs of the stage before, one tensor or several. `forward` takes as many
/// tensors, or one `std::vector` of them, and returns a tensor, or tensors in containers, tuples
/// and pairs, which travel in their order. What a stage needs beside its inputs does not travel:
/// send it along as one more output, also where only a later stage needs it.
///
/// Thread-safety: as the module's.
/// Owns: a reference to the module.
class LOCKSTEP_API Stage {
 public:
  /// A module: a holder as `TORCH_MODULE` makes one, `torch::nn::Sequential`,
  /// `torch::nn::AnyModule`, a `std::shared_ptr` to a module, or one of these in
  /// `DistributedDataParallel`. Gradients of the latter are averaged in its last backward of a
  /// step.
  ///
  /// Throws: `c10::Error` for an empty holder or null.
  template <typename Net>
  requires lockstep::detail::WrapsModule<Net> Stage(Net net)  // NOLINT: converts on purpose
      : Stage(lockstep::detail::module_of(net) != nullptr) {
    add_module(net);
    call_ = [net = std::move(net)](const detail::Tensors& inputs) mutable {
      auto& module = lockstep::detail::forward_of(net);
      using Module = std::remove_cvref_t<decltype(module)>;
      return detail::call_stage(detail::ForwardCall<Module>{module}, inputs);
    };
  }
  /// A function of the tensors, and all modules that it uses: the gradients of their parameters are
  /// those of the stage.
  ///
  /// Throws: `c10::Error` for a module that is empty or null.
  template <typename Function, typename... Modules>
  requires(sizeof...(Modules) > 0 && !lockstep::detail::WrapsModule<Function> &&
           (lockstep::detail::WrapsModule<Modules> && ...))
      Stage(Function function, Modules... modules)
      : Stage(((lockstep::detail::module_of(modules) != nullptr) && ...)) {
    (add_module(modules), ...);
    set_function(std::move(function));
  }
  /// A function that uses no parameters. Those that it captures all the same get gradients, which
  /// the pipeline does not know and does not divide.
  template <typename Function>
  [[nodiscard]] static Stage without_parameters(Function function) {
    Stage stage(true);
    stage.set_function(std::move(function));
    return stage;
  }

  /// Runs it.
  /// Throws: what the module throws; `c10::Error` for another number of tensors than it takes.
  [[nodiscard]] std::vector<at::Tensor> call(const std::vector<at::Tensor>& inputs) const {
    return call_(inputs);
  }
  /// The parameters of its modules.
  [[nodiscard]] std::vector<at::Tensor> parameters() const;
  /// Where its inputs belong: the device of its first parameter, or the CPU.
  [[nodiscard]] c10::Device device() const;
  /// Whether a module of it is a `DistributedDataParallel`.
  [[nodiscard]] bool averages_gradients() const noexcept { return !pauses_.empty(); }
  /// While the result lives, its backwards average nothing.
  [[nodiscard]] std::vector<std::shared_ptr<void>> pause_averaging() const;

 private:
  explicit Stage(bool has_modules);

  template <typename Net>
  void add_module(const Net& net) {
    parameters_.push_back([net = Net(net)]() mutable { return pointee(net).parameters(); });
    if constexpr (requires(Net & given) { pointee(given).no_sync(); }) {
      pauses_.push_back([net = Net(net)]() mutable -> std::shared_ptr<void> {
        using Guard = decltype(pointee(net).no_sync());
        return std::make_shared<Guard>(pointee(net).no_sync());
      });
    }
  }
  template <typename Net>
  static auto& pointee(Net& net) {
    // An `AnyModule` does not say which type it holds.
    if constexpr (requires { net.operator->(); }) {
      return *net.operator->();
    } else {
      return *net.ptr();
    }
  }
  template <typename Function>
  void set_function(Function function) {
    call_ = [function = std::move(function)](const detail::Tensors& inputs) mutable {
      return detail::call_stage(function, inputs);
    };
  }

  std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)> call_;
  std::vector<std::function<std::vector<at::Tensor>()>> parameters_;
  std::vector<std::function<std::shared_ptr<void>()>> pauses_;
};

/// The stages of one rank, in ascending order: a braced list, a `std::vector` of modules of one
/// type, or a single stage.
///
/// Thread-safety: a value.
class Stages {
 public:
  /// A list of whatever makes a `Stage`.
  Stages(std::initializer_list<Stage> stages) : stages_(stages) {}
  /// The only stage of this rank.
  template <std::convertible_to<Stage> Net>
  Stages(Net net) : stages_{Stage(std::move(net))} {}  // NOLINT: converts on purpose
  /// One stage an element.
  template <std::convertible_to<Stage> Net>
  Stages(const std::vector<Net>& nets)  // NOLINT: converts on purpose
      : stages_(nets.begin(), nets.end()) {}

  /// As given.
  [[nodiscard]] const std::vector<Stage>& all() const noexcept { return stages_; }

 private:
  std::vector<Stage> stages_;
};

}  // namespace lockstep::pipeline
