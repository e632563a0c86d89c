// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <vector>

namespace bench {

/// What the kernel says of a process. Zeroes for one that has ended.
struct ProcessFigures {
  std::uint64_t minor_faults = 0;
  std::uint64_t descriptors = 0;
  std::uint64_t private_kib = 0;  ///< memory that no other process shares
};

[[nodiscard]] ProcessFigures figures_of(int pid, bool with_memory = false);

/// Children of this process, theirs, and so on.
[[nodiscard]] std::vector<int> descendants();

}  // namespace bench
