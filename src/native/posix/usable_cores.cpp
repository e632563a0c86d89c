// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/usable_cores.h"

#include <sched.h>

namespace lockstep::native {

int usable_cores() noexcept {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace lockstep::native
