// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

namespace lockstep::optim {

/// What `CyclicLR` and `OneCycleLR` need of the options of an optimizer whose momentum they cycle.
/// Options of Lockstep's optimizers derive from it, and those of a program's own optimizer may;
/// those of LibTorch's `SGD`, `RMSprop`, `Adam` and `AdamW` are known without.
///
/// Thread-safety: none.
class LOCKSTEP_API MomentumOptions {
 public:
  virtual ~MomentumOptions() = default;
  /// Whether it is the first of two betas, as Adam's, and no `momentum`.
  [[nodiscard]] virtual bool is_beta1() const = 0;
  /// The momentum, or beta1.
  [[nodiscard]] virtual double get_momentum() const = 0;
  /// Sets it.
  virtual void set_momentum(double momentum) = 0;

 protected:
  MomentumOptions() = default;
  MomentumOptions(const MomentumOptions&) = default;
  MomentumOptions& operator=(const MomentumOptions&) = default;
};

}  // namespace lockstep::optim
