// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/backend_choice.h"

#include <ATen/Context.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

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
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

std::string ranks_text(const LaunchEnvironment& environment) {
  return environment.launcher + " says that " + std::to_string(environment.local_size) + " of " +
         std::to_string(environment.world_size) + " ranks are on this host";
}

bool is_one_host(const LaunchEnvironment& environment) {
  return environment.local_size == environment.world_size;
}

BackendChoice choose_transport(const LaunchEnvironment& environment,
                               const Surroundings& surroundings) {
  if (environment.world_size == 1) return {Backend::Single, false, false, "there is one rank"};
  if (is_one_host(environment)) {
    return {Backend::SharedMemory, false, false, "all ranks are on one host"};
  }
  // torchrun starts no MPI; nor can a build without it.
  const bool is_mpi_launch = environment.launcher != "torchrun";
  if (surroundings.has_mpi && is_mpi_launch) {
    return {Backend::Hierarchical, false, false, "the ranks are on several hosts"};
  }
  const std::string why_not =
      is_mpi_launch ? "this build has no MPI" : environment.launcher + " starts no MPI";
  if (surroundings.has_gloo && surroundings.has_rendezvous) {
    return {Backend::Gloo, false, false, "the ranks are on several hosts and " + why_not};
  }
  throw LaunchError("no backend for ranks on several hosts: " + why_not +
                    (surroundings.has_gloo
                         ? ", and MASTER_ADDR and MASTER_PORT, which Gloo needs, are not set"
                         : ", and this build has no gloo"));
}

BackendChoice choose_auto(const LaunchEnvironment& environment, const Surroundings& surroundings) {
  BackendChoice choice = choose_transport(environment, surroundings);
  choice.may_have_nccl = surroundings.has_nccl && environment.world_size > 1;
  return choice;
}

/// Empty where nothing stands in NCCL's way.
std::string obstacle_to_nccl(const std::vector<std::int64_t>& gpus) {
  for (std::size_t rank = 0; rank < gpus.size(); ++rank) {
    if (gpus[rank] == 0) return "rank " + std::to_string(rank) + " sees no GPU";
    const auto here = gpus.begin() + static_cast<std::ptrdiff_t>(rank);
    const auto same = std::find(gpus.begin(), here, *here);
    if (same == here) continue;
    return "ranks " + std::to_string(same - gpus.begin()) + " and " + std::to_string(rank) +
           " use one GPU";
  }
  return "";
}

BackendChoice choose_nccl(const LaunchEnvironment& environment, const Surroundings& surroundings) {
  if (!surroundings.has_nccl) {
    throw LaunchError(
        "this build of Lockstep has no NCCL backend; build it with -DLOCKSTEP_WITH_CUDA=ON, or "
        "leave the choice to Auto, whose groups carry CUDA tensors through pinned memory then");
  }
  if (surroundings.gpus == 0) throw LaunchError("backend Nccl needs a GPU; this process sees none");
  BackendChoice choice = choose_transport(environment, surroundings);
  choice.has_nccl = true;
  choice.reason = "as asked; CPU tensors go over " + std::string(to_string(choice.transport));
  return choice;
}

void require(bool condition, const std::string& message) {
  if (!condition) throw LaunchError(message);
}

void check_wanted(Backend wanted, const LaunchEnvironment& environment,
                  const Surroundings& surroundings) {
  switch (wanted) {
    case Backend::Single:
      return require(environment.world_size == 1,
                     "backend Single is for a world of one; " + environment.launcher + " started " +
                         std::to_string(environment.world_size) + " ranks");
    case Backend::SharedMemory:
      return require(
          is_one_host(environment),
          "backend SharedMemory needs all ranks on one host; " + ranks_text(environment));
    case Backend::Mpi:
    case Backend::Hierarchical:
      return require(surroundings.has_mpi,
                     "this build of Lockstep has no MPI backend; build it with "
                     "-DLOCKSTEP_WITH_MPI=ON, or run all ranks on one host");
    case Backend::Gloo:
      require(surroundings.has_gloo,
              "this build of Lockstep has no gloo backend; its headers (libgloo-dev) were not "
              "found when it was built");
      return require(surroundings.has_rendezvous,
                     "backend Gloo needs MASTER_ADDR and MASTER_PORT, as torchrun sets them: a "
                     "host of the job and a free port there, the same on all ranks");
    default:
      throw LaunchError("unknown backend " + std::to_string(static_cast<int>(wanted)));
  }
}

}  // namespace

Surroundings Surroundings::detect() {
  Surroundings result;
  result.has_mpi = kHasMpi;
  result.has_gloo = kHasGloo;
  result.has_nccl = kHasNccl;
  result.has_rendezvous = is_set("MASTER_ADDR") && is_set("MASTER_PORT");
  if (at::hasCUDA()) result.gpus = static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  return result;
}

BackendChoice choose_backend(Backend wanted, const LaunchEnvironment& environment,
                             const Surroundings& surroundings) {
  if (wanted == Backend::Auto) return choose_auto(environment, surroundings);
  if (wanted == Backend::Nccl) return choose_nccl(environment, surroundings);
  check_wanted(wanted, environment, surroundings);
  return {wanted, false, false, "as asked"};
}

void decide_on_nccl(BackendChoice& choice, const std::vector<std::int64_t>& gpus) {
  if (!std::exchange(choice.may_have_nccl, false)) return;
  const bool has_any = std::any_of(gpus.begin(), gpus.end(), [](auto gpu) { return gpu != 0; });
  if (!has_any) return;
  const std::string obstacle = obstacle_to_nccl(gpus);
  choice.has_nccl = obstacle.empty();
  choice.reason += choice.has_nccl ? "; each rank has a GPU of its own; CPU tensors go over " +
                                         std::string(to_string(choice.transport))
                                   : "; no NCCL, because " + obstacle;
}

}  // namespace lockstep
