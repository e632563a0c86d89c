// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <functional>
#include <optional>
#include <string>

namespace lockstep {

/// What the launcher told this process about its place in the world.
///
/// Thread-safety: a value; copies are independent.
struct LOCKSTEP_API LaunchEnvironment {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;  ///< rank among the ranks of this host
  int local_size = 1;  ///< ranks on this host
  /// Which launcher was recognised: "Open MPI", "MPICH", "Slurm", "torchrun" or "alone".
  std::string launcher = "alone";
  /// The same text on all ranks of one job and on no other job of this user; empty when alone.
  /// Ranks of one host meet under it.
  std::string job_id;

  /// The name of the host that this rank plays; empty: the machine's own.
  std::string host;

  /// Looks up a variable; returns nothing when it is not set.
  using Lookup = std::function<std::optional<std::string>(const std::string& name)>;

  /// Reads the variables of Open MPI, MPICH/Hydra, torchrun and Slurm, in this order (Slurm last,
  /// because `sbatch` sets its variables even where `mpirun` starts the ranks). No such variable: a
  /// world of one. `LOCKSTEP_JOB_ID`, where set, replaces the job id.
  /// `LOCKSTEP_PRETEND_HOSTS`, a name for each rank such as "a,a,b,b", makes one machine play
  /// several hosts, to try there what runs across hosts.
  ///
  /// Throws: `LaunchError` naming the variable that is missing, garbled or out of range.
  /// Source: Open MPI 4.1 FAQ, Hydra and Slurm `srun` manuals, `torchrun` documentation of
  /// PyTorch 2.11.
  [[nodiscard]] static LaunchEnvironment detect();
  [[nodiscard]] static LaunchEnvironment detect(const Lookup& lookup);
};

}  // namespace lockstep
