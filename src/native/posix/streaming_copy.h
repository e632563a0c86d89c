// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>

namespace lockstep::native {

/// Copies as `memcpy` does, for bytes that nobody reads soon. On x86-64, 64 KiB and more are
/// written past the caches, four pages at a time. So memory is not read where it is only
/// overwritten, which is a third of what a copy moves, and the caches keep what they have. Both
/// addresses may be null where `bytes` is 0.
///
/// Source: non-temporal stores in Intel's optimization manual; glibc copies so from a size on that
/// depends on the last cache, far beyond a tensor's on large processors.
void streaming_copy(void* target, const void* source, std::size_t bytes) noexcept;

}  // namespace lockstep::native
