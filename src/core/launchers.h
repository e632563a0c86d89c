// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>

#include <array>

namespace lockstep {

/// The variables by which one launcher tells a process its place. A name is empty where the
/// launcher has no such variable.
struct LauncherVariables {
  Launcher launcher;
  const char* choice;  ///< the value of LOCKSTEP_LAUNCHER that means it
  const char* rank;
  const char* world_size;
  const char* local_rank;
  const char* local_size;
  const char* step_size = "";

  [[nodiscard]] std::array<const char*, 5> variables() const {
    return {rank, world_size, local_rank, local_size, step_size};
  }
};

/// Where a process has the variables of several launchers, the first of them counts. Slurm comes
/// last: inside an allocation its variables are set for every process, whoever started it.
inline constexpr std::array<LauncherVariables, 4> kLaunchers{{
    {Launcher::OpenMpi, "openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {Launcher::Mpich, "mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {Launcher::Torchrun, "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {Launcher::Slurm, "slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "",
     "SLURM_STEP_NUM_TASKS"},
}};

[[nodiscard]] inline bool is_slurm(const LauncherVariables& launcher) {
  return launcher.launcher == Launcher::Slurm;
}

using Lookup = LaunchEnvironment::Lookup;

/// Whether anything says how many ranks this launcher started, or which one this is.
[[nodiscard]] bool is_named(const LauncherVariables& launcher, const Lookup& lookup);
/// Whether the variables say both.
[[nodiscard]] bool is_whole(const LauncherVariables& launcher, const Lookup& lookup);
/// Whether Slurm started this process, or one around it. In an allocation without a step, only the
/// user's script runs.
[[nodiscard]] bool is_step(const LauncherVariables& launcher, const Lookup& lookup);
/// Whether a variable says how many ranks this host has.
[[nodiscard]] bool has_local_size(const LauncherVariables& launcher, const Lookup& lookup);

/// The place of this process as one launcher tells it. Throws: `LaunchError` naming the variable
/// that is missing, garbled or out of range.
[[nodiscard]] LaunchEnvironment read_environment(const LauncherVariables& launcher,
                                                 const Lookup& lookup);

}  // namespace lockstep
