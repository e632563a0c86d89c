// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "optim/parameter_list.h"

namespace lockstep::optim {

/// A part of a list, for operators that make intermediate tensors. On a CPU these stay in the cache
/// if the part is small, and their memory is not asked of the system anew in each step.
struct ListPiece {
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> gradients;
  std::array<std::vector<at::Tensor>, kStateTensors> tensors;
  std::vector<std::int64_t> steps;
};

/// Calls `update` for all parts of a list, from several threads of LibTorch's pool at once.
/// `can_divide`: whether elements are independent of each other, so that a large tensor may be cut.
/// It is cut where LibTorch's vector loops begin anew, so that the bits are those of the whole.
void for_each_piece(const ParameterList& list, bool can_divide,
                    const std::function<void(ListPiece&)>& update);

/// Whether LibTorch has fused operators for this device.
bool has_fused_operators(const at::Device& device);

}  // namespace lockstep::optim
