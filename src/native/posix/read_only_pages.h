// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace lockstep::native {

/// From now on, whoever writes to this mapping of whole pages gets SIGSEGV; other mappings of the
/// same memory stay as they are. False with `errno` where the kernel refuses.
[[nodiscard]] inline bool make_read_only(void* start, std::size_t bytes) noexcept {
  return ::mprotect(start, bytes, PROT_READ) == 0;
}

/// Processes that this one forks later do not have this mapping of whole pages, and so do not keep
/// its memory.
inline void keep_out_of_forks(void* start, std::size_t bytes) noexcept {
  ::madvise(start, bytes, MADV_DONTFORK);
}

}  // namespace lockstep::native
