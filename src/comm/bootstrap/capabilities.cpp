// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/capabilities.h"

#include <ATen/Context.h>

#include "native/posix/environment_variable.h"

namespace lockstep {
namespace {

#ifdef LOCKSTEP_HAS_MPI
constexpr bool kHasMpi = true;
#else
constexpr bool kHasMpi = false;
#endif
#ifdef LOCKSTEP_HAS_GLOO
constexpr bool kHasGloo = true;
#else
constexpr bool kHasGloo = false;
#endif
#ifdef LOCKSTEP_HAS_NCCL
constexpr bool kHasNccl = true;
#else
constexpr bool kHasNccl = false;
#endif

bool is_set(const char* name) {
  return !native::environment_variable(name).empty();
}

}  // namespace

Capabilities Capabilities::detect() {
  Capabilities result;
  result.has_mpi = kHasMpi;
  result.has_gloo = kHasGloo;
  result.has_nccl = kHasNccl;
  result.has_rendezvous = is_set("MASTER_ADDR") && is_set("MASTER_PORT");
  if (at::hasCUDA()) result.gpus = static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  return result;
}

}  // namespace lockstep
