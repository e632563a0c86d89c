// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "native/posix/page_size.h"

namespace lockstep::native {

/// Asks for pages of 2 MiB for memory that nobody has written yet: the first write of each 4 KiB
/// costs more than a copy of them. Best effort.
inline void prefer_huge_pages(void* memory, std::size_t bytes) noexcept {
  const auto begin = round_up_to_page(reinterpret_cast<std::uintptr_t>(memory));
  const auto end = reinterpret_cast<std::uintptr_t>(memory) + bytes;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace lockstep::native
