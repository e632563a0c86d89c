// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <functional>
#include <optional>
#include <string>

namespace lockstep {

/// What started the ranks of a job.
enum class Launcher {
  Standalone,  ///< nothing: the program was started by itself, as a world of one
  OpenMpi,     ///< Open MPI's `mpirun`
  Mpich,       ///< Hydra, with MPICH and its relatives
  Torchrun,    ///< `torchrun`, or whoever sets its variables
  Slurm,       ///< `srun`
  Custom,      ///< something else; the program fills in the `LaunchEnvironment` by itself
};

/// "Open MPI", "torchrun": how its makers write it.
[[nodiscard]] LOCKSTEP_API std::string to_string(Launcher launcher);

/// What the launcher told this process about its place in the world.
///
/// Thread-safety: a value; copies are independent.
struct LOCKSTEP_API LaunchEnvironment {
  int rank = 0;        ///< number of this process among all, from 0
  int world_size = 1;  ///< number of all processes
  int local_rank = 0;  ///< rank among the ranks of this host
  int local_size = 1;  ///< ranks on this host
  /// Which launcher was recognised.
  Launcher launcher = Launcher::Standalone;
  /// The same text on all ranks of one job and on no other job of this user; empty in a standalone
  /// program. Ranks find each other by it in a rendezvous over shared memory, or in Gloo's store
  /// where several jobs use one.
  std::string job_id;

  /// The name of the host that this rank plays; empty: the machine's own.
  std::string host;

  /// What was taken for granted where a variable is missing, as errors say it; empty: nothing.
  std::string assumption;

  /// Looks up a variable; returns nothing when it is not set.
  using Lookup = std::function<std::optional<std::string>(const std::string& name)>;

  /// Reads the variables of Open MPI, MPICH/Hydra, torchrun or Slurm. Where several left some, the
  /// innermost launcher counts, as far as this process's ancestors show which that is; without them
  /// those of Slurm count last, because `sbatch` sets its variables even where
  /// `mpirun` starts the ranks. No such variable: a world of one. `LOCKSTEP_LAUNCHER` (openmpi,
  /// mpich, torchrun, slurm, standalone), where set, chooses; `LOCKSTEP_JOB_ID` replaces the job
  /// id. `LOCKSTEP_FAKE_HOSTS`, a name for each rank such as "a,a,b,b", makes one machine play
  /// several hosts, to try there what runs across hosts.
  ///
  /// Throws: `LaunchError` naming the variable that is missing, garbled or out of range; with what
  /// both say, where two launchers contradict each other.
  /// Source: Open MPI 4.1 FAQ, Hydra and Slurm `srun` manuals, `torchrun` documentation of
  /// PyTorch 2.11.
  [[nodiscard]] static LaunchEnvironment detect();
  /// The same from the variables that `lookup` knows, without a look at this process's ancestors.
  ///
  /// Throws: as `detect()`.
  [[nodiscard]] static LaunchEnvironment detect(const Lookup& lookup);
};

}  // namespace lockstep
