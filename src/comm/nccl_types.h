// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/comm/types.h>

#include <array>
#include <cstddef>
#include <optional>

#include "native/nccl/nccl_api.h"

namespace lockstep {

/// How NCCL does a reduction of one dtype.
struct NcclReductionPlan {
  native::NcclType type = native::NcclType::Float32;
  std::size_t per_element = 1;  ///< values of `type` in an element: 2 of a complex number
  native::NcclReduction op = native::NcclReduction::Sum;
  /// PreMulSum: the factor as a value of `type`. NCCL makes a reduction of its own from it.
  std::optional<std::array<std::byte, 8>> factor;
};

/// Throws: `c10::Error` that says what NCCL lacks, for a reduction that this library has on the CPU
/// only. `call`: its name, for the message.
[[nodiscard]] NcclReductionPlan plan_nccl_reduction(at::ScalarType dtype, ReduceOp op,
                                                    const char* call);

}  // namespace lockstep
