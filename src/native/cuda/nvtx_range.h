// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string_view>

namespace lockstep::native {

/// Begins a range of this thread in NVTX's domain "lockstep", if a tool of NVIDIA's listens.
/// Returns whether one does; then `end_nvtx_range` ends the range, in this thread. Without a tool
/// it costs a comparison. The first call looks for a tool.
[[nodiscard]] bool begin_nvtx_range(std::string_view name);
/// Ends the innermost range of this thread.
void end_nvtx_range() noexcept;

}  // namespace lockstep::native
