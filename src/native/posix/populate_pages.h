// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace lockstep::native {

/// Maps pages to write to, which takes their memory. False with `errno`: `EINVAL` before
/// Linux 5.14.
[[nodiscard]] inline bool populate_pages(void* start, std::size_t bytes) noexcept {
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which glibc before 2.35 does not name
  return ::madvise(start, bytes, kPopulateWrite) == 0;
}

}  // namespace lockstep::native
