// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "training_step.h"

/// The plain C++ way without Lockstep: `MPI_Allreduce` of each gradient after backward.
namespace bench {

void run_plain_mpi(const Settings& settings);

/// Name and version of the MPI library, in one line.
std::string mpi_version();

}  // namespace bench
