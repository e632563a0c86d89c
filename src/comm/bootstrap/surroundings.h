// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep {

/// What this process can use, beside what the launcher says.
struct Surroundings {
  bool has_mpi = false;         ///< this build has the Mpi backend
  bool has_gloo = false;        ///< likewise Gloo
  bool has_nccl = false;        ///< likewise Nccl
  bool has_rendezvous = false;  ///< MASTER_ADDR and MASTER_PORT say where ranks can meet over TCP
  int gpus = 0;                 ///< that this process can see

  [[nodiscard]] static Surroundings detect();
};

}  // namespace lockstep
