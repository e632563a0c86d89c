// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

namespace lockstep::native {

/// What the kernel has counted for the calling thread, in nanoseconds.
struct ThreadClock {
  std::uint64_t on_cpu = 0;
  std::uint64_t delayed =
      0;  ///< ready to run while no core was free; 0 where the kernel says nothing
};

[[nodiscard]] ThreadClock thread_clock();

/// Keeps the calling thread on this core.
/// Throws: `std::system_error` naming the core.
void pin_to_cpu(int cpu);

}  // namespace lockstep::native
