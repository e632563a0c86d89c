// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace lockstep::native {

/// Bytes of memory of process `pid` that belong to no file and no shared mapping, pages that it has
/// in common with the process that forked it included; 0 where it cannot be learned.
[[nodiscard]] std::size_t anonymous_memory_of(pid_t pid);

}  // namespace lockstep::native
