// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <utility>

namespace lockstep::inference::detail {

/// A model as the ensemble calls it.
using Call = std::function<at::Tensor(const at::Tensor&)>;
/// Makes the model on a device, in the member's process.
using MakeCall = std::function<Call(c10::Device)>;

template <class T>
concept PointsToForward = requires(T& model, const at::Tensor& input) {
  at::Tensor(model->forward(input));
};
template <class T>
concept HasForward = requires(T& model, const at::Tensor& input) {
  at::Tensor(model.forward(input));
};
template <class T>
concept IsFunction = requires(T& model, const at::Tensor& input) {
  at::Tensor(model(input));
};
template <class T>
concept PointsToFunction = requires(T& model, const at::Tensor& input) {
  at::Tensor((*model)(input));
};
template <class T>
concept IsModel = PointsToForward<T> || HasForward<T> || IsFunction<T> || PointsToFunction<T>;

/// A module goes to the device and into evaluation mode; of a function, only its input does the
/// first.
template <class T>
void prepare_model(T& model, c10::Device device) {
  if constexpr (requires {
                  model->eval();
                  model->to(device);
                }) {
    model->to(device);
    model->eval();
  } else if constexpr (requires {
                         model.eval();
                         model.to(device);
                       }) {
    model.to(device);
    model.eval();
  } else if constexpr (requires {
                         model.ptr()->eval();
                         model.ptr()->to(device);
                       }) {  // AnyModule
    model.ptr()->to(device);
    model.ptr()->eval();
  }
}

/// `model`: a `TORCH_MODULE`, a pointer to a module, or a function of a tensor.
template <class T>
[[nodiscard]] Call call_of(T model, c10::Device device) {
  static_assert(IsModel<T>,
                "a member's factory returns a module (by value or by pointer) with "
                "forward(torch::Tensor), or a function of a torch::Tensor; its result is a tensor");
  auto kept = std::make_shared<T>(std::move(model));
  prepare_model(*kept, device);
  return [kept](const at::Tensor& input) -> at::Tensor {
    if constexpr (PointsToForward<T>) {
      return (*kept)->forward(input);
    } else if constexpr (HasForward<T>) {
      return kept->forward(input);
    } else if constexpr (IsFunction<T>) {
      return (*kept)(input);
    } else {
      return (**kept)(input);
    }
  };
}

}  // namespace lockstep::inference::detail
