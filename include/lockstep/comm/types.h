// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <string_view>

namespace lockstep {

/// How values of different ranks become one. On the CPU they are combined in rank order, so that
/// every rank, every run and every backend gets the same bits.
enum class ReduceOp {
  Sum,
  Avg,  ///< the sum, multiplied by 1 / world size; floating-point types only
  Min,
  Max,
};

/// What carries a group's traffic.
enum class Backend {
  Auto,    ///< chosen from the launch: Single for one rank, SharedMemory on one host, Mpi across
           ///< hosts
  Single,  ///< a world of one; every collective is done at once
  SharedMemory,  ///< ranks of one host, CPU tensors
  Mpi,           ///< CPU tensors over whatever MPI reaches
};

[[nodiscard]] LOCKSTEP_API std::string_view to_string(ReduceOp op);
[[nodiscard]] LOCKSTEP_API std::string_view to_string(Backend backend);

}  // namespace lockstep
