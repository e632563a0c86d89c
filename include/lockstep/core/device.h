// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <lockstep/core/export.h>

namespace lockstep {

/// Gives this process its device: GPU `local_rank` modulo the number of visible GPUs, made current
/// for the calling thread; the CPU where there is no GPU or the program was built without CUDA.
///
/// Programs call `bind_device(*group)` of `lockstep/comm/init.h`.
///
/// Thread-safety: any thread; the device becomes current in that one.
/// Throws: `c10::Error` when `local_rank` is negative.
[[nodiscard]] LOCKSTEP_API c10::Device bind_device(int local_rank);

}  // namespace lockstep
