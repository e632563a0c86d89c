// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <functional>

/// @file
/// How an `AveragedModel` averages; with the bits of the functions of these names in Python's
/// `torch.optim.swa_utils`.
///
/// Thread-safety: values; the functions are called by the thread that updates the average.

namespace lockstep::optim {

/// Changes averages in place, given the values of now and how many have been averaged before. It is
/// called once for the tensors of each device and dtype, from the second update on.
using MultiAvgFn =
    std::function<void(at::TensorList averaged, at::TensorList current, std::int64_t num_averaged)>;

/// The exponential moving average: averaged = decay * averaged + (1 - decay) * current.
///
/// Throws: `c10::Error` for a decay that is not from 0 to 1.
[[nodiscard]] LOCKSTEP_API MultiAvgFn get_ema_multi_avg_fn(double decay = 0.999);

/// The mean of all values so far, by foreach operators.
///
/// Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
/// UAI 2018.
[[nodiscard]] LOCKSTEP_API MultiAvgFn get_swa_multi_avg_fn();

/// The same by one tensor after the other, which rounds otherwise: what an `AveragedModel` does on
/// a CPU where it is given no function.
[[nodiscard]] LOCKSTEP_API MultiAvgFn get_swa_avg_fn();

}  // namespace lockstep::optim
