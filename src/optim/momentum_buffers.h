// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>

#include <vector>

namespace lockstep::optim {

/// The momentum of SGD, with Python's bits: updates the buffers, and returns what the step goes
/// along. `gradients` stay as they are. The first step fills the buffers, without dampening.
///
/// `Options`: of an optimizer that has `momentum`, `dampening` and `nesterov`.
template <class Options>
std::vector<at::Tensor> follow_momentum(const Options& options,
                                        const std::vector<at::Tensor>& gradients,
                                        std::vector<at::Tensor>& buffers, bool is_first_step) {
  if (options.momentum() == 0) return gradients;
  if (is_first_step) {
    at::_foreach_copy_(buffers, gradients);
  } else {
    at::_foreach_mul_(buffers, options.momentum());
    at::_foreach_add_(buffers, gradients, 1 - options.dampening());
  }
  return options.nesterov() ? at::_foreach_add(gradients, buffers, options.momentum()) : buffers;
}

}  // namespace lockstep::optim
