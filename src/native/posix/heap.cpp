// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/heap.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace lockstep::native {

bool retain_freed_memory() {
#ifdef __GLIBC__
  for (const char* name : {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"}) {
    if (std::getenv(name) != nullptr) return false;
  }
  const char* tunables = std::getenv("GLIBC_TUNABLES");
  if (tunables != nullptr && std::strstr(tunables, "glibc.malloc.") != nullptr) return false;
  // The largest threshold that glibc takes: blocks above it come from mmap and go back when freed,
  // whatever we say.
  const bool is_mmap_set = ::mallopt(M_MMAP_THRESHOLD, 32 << 20) == 1;
  const bool is_trim_set = ::mallopt(M_TRIM_THRESHOLD, -1) == 1;  // never trims the heap's top
  return is_mmap_set && is_trim_set;
#else
  return false;
#endif
}

}  // namespace lockstep::native
