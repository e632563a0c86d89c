// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>

#include <array>

namespace lockstep {

/// The variables by which one launcher tells a process its place. Empty names: the launcher has
/// none.
struct Launcher {
  const char* name;
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

/// Of those whose variables one process set, the first counts. Slurm comes last: inside an
/// allocation its variables are set for every process, whoever started it.
inline constexpr std::array<Launcher, 4> kLaunchers{{
    {"Open MPI", "openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"MPICH", "mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"torchrun", "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"Slurm", "slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "", "SLURM_STEP_NUM_TASKS"},
}};

/// Only Slurm tells a job from its steps.
[[nodiscard]] inline bool is_slurm(const Launcher& launcher) {
  return launcher.step_size[0] != '\0';
}

using Lookup = LaunchEnvironment::Lookup;

/// Whether anything says how many ranks this launcher started, or which one this is.
[[nodiscard]] bool is_named(const Launcher& launcher, const Lookup& lookup);
/// Whether both is said.
[[nodiscard]] bool is_whole(const Launcher& launcher, const Lookup& lookup);
/// Whether Slurm started this process, or one around it: in an allocation without a step nothing
/// runs but the user's script.
[[nodiscard]] bool is_step(const Launcher& launcher, const Lookup& lookup);
/// Whether it says how many ranks this host has.
[[nodiscard]] bool has_local_size(const Launcher& launcher, const Lookup& lookup);

/// The place of this process as one launcher tells it. Throws: `LaunchError` naming the variable
/// that is missing, garbled or out of range.
[[nodiscard]] LaunchEnvironment read_environment(const Launcher& launcher, const Lookup& lookup);

}  // namespace lockstep
