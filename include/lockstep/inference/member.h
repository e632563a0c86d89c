// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <lockstep/inference/detail/model_call.h>
#include <torch/arg.h>

#include <cstdint>
#include <string>
#include <utility>

namespace lockstep::inference {

/// A model of an `Ensemble`: how it is called, how it is made, and what it may use. `member` makes
/// one.
///
/// Thread-safety: a value.
class Member {
 public:
  /// The most `copies` of all members together.
  static constexpr std::int64_t kMostCopies = 255;

  /// `make` runs in the process of the member, once for each copy and each restart.
  Member(std::string name, detail::MakeCall make)
      : name_(std::move(name)), make_(std::move(make)) {}

  /// Threads that an operator of this member may use.
  TORCH_ARG(std::int64_t, threads) = 1;
  /// Processes that share the requests of this member, each with a model of its own.
  TORCH_ARG(std::int64_t, copies) = 1;
  /// Where the model computes. Inputs go there, and outputs come back to the CPU.
  TORCH_ARG(c10::Device, device) = c10::Device(c10::kCPU);

 public:
  /// By which answers, errors and statistics call it.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// What makes the model.
  [[nodiscard]] const detail::MakeCall& make() const noexcept { return make_; }

 private:
  std::string name_;
  detail::MakeCall make_;
};

/// A member whose model `factory()` makes: a `TORCH_MODULE`, a pointer to a module, or any function
/// from a tensor to a tensor. A module is put into evaluation mode and moved to the device.
///
/// The factory runs in the member's own process, so what it loads costs the program no memory. It
/// runs again when the process was lost, and must then still find its files. The model is called
/// without recording for autograd. It must not write to its input, which all members read, nor keep
/// it or a view of it after the call: later requests have the same memory. It may keep a clone.
template <class Factory>
[[nodiscard]] Member member(std::string name, Factory factory) {
  return {std::move(name), [factory = std::move(factory)](c10::Device device) mutable {
            return detail::call_of(factory(), device);
          }};
}

}  // namespace lockstep::inference
