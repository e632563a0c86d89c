// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// How many cores the calling thread may run on: those of its affinity, as `taskset` and containers
/// set it. 1 where the system does not say.
[[nodiscard]] int usable_cores() noexcept;

}  // namespace lockstep::native
