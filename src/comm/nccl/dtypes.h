// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "comm/collective/collective.h"
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

/// `capability`: the device's compute capability, as 90 for 9.0.
/// Throws: `c10::Error` that says what NCCL or the device lacks, for a reduction that this library
/// has on the CPU only.
[[nodiscard]] NcclReductionPlan plan_nccl_reduction(const Collective& call, int capability);

}  // namespace lockstep
