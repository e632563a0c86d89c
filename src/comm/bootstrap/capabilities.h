// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep {

/// What this build and this process can use.
struct Capabilities {
  bool has_mpi = false;         ///< this build has the Mpi backend
  bool has_gloo = false;        ///< likewise Gloo
  bool has_nccl = false;        ///< likewise Nccl
  bool has_rendezvous = false;  ///< MASTER_ADDR and MASTER_PORT are set
  int gpus = 0;                 ///< how many this process sees

  [[nodiscard]] static Capabilities detect();
};

}  // namespace lockstep
