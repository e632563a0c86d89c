// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// Tells glibc's allocator, for the whole process, to keep what is freed instead of giving it back
/// to the system. Leaves it alone where the user has set its thresholds in the environment. Returns
/// whether the setting was made. Thread-safety: any thread.
bool retain_freed_memory();

}  // namespace lockstep::native
