// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/backend_selection.h"

#include <lockstep/core/error.h>

#include <algorithm>
#include <utility>

#include "comm/bootstrap/backends.h"
#include "comm/bootstrap/between_hosts.h"

namespace lockstep {
namespace {

BackendSelection select_transport(const LaunchEnvironment& environment,
                                  const Capabilities& capabilities) {
  if (environment.world_size == 1) return {Backend::Single, false, false, "there is one rank"};
  if (environment.local_size == environment.world_size) {
    return {Backend::SharedMemory, false, false, "all ranks are on one host"};
  }
  const BetweenHosts between = select_between_hosts(environment, capabilities);
  std::string reason = "the ranks are on several hosts";
  if (between.is_over_tcp) {
    reason += ", over TCP";
    if (!between.reason.empty()) reason += "; they meet over Gloo, because " + between.reason;
  } else if (!between.reason.empty()) {
    reason += ", over Gloo, because " + between.reason;
  }
  return {Backend::Hierarchical, false, false, reason};
}

BackendSelection select_auto(const LaunchEnvironment& environment,
                             const Capabilities& capabilities) {
  BackendSelection selection = select_transport(environment, capabilities);
  selection.may_have_nccl = capabilities.has_nccl && environment.world_size > 1;
  return selection;
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

BackendSelection select_nccl(const LaunchEnvironment& environment,
                             const Capabilities& capabilities) {
  if (!capabilities.has_nccl) {
    throw LaunchError(
        "this build of Lockstep has no NCCL backend; build it with -DLOCKSTEP_WITH_CUDA=ON, or "
        "leave the choice to Auto, whose groups carry CUDA tensors through pinned memory then");
  }
  if (capabilities.gpus == 0) throw LaunchError("backend Nccl needs a GPU; this process sees none");
  BackendSelection selection = select_transport(environment, capabilities);
  selection.has_nccl = true;
  selection.reason = "as asked; CPU tensors go over " + std::string(to_string(selection.transport));
  return selection;
}

void check_wanted(Backend wanted, const LaunchEnvironment& environment,
                  const Capabilities& capabilities) {
  const BackendRow* row = find_backend(wanted);
  if (row == nullptr) {
    throw LaunchError("unknown backend " + std::to_string(static_cast<int>(wanted)));
  }
  row->check(environment, capabilities);
}

}  // namespace

BackendSelection select_backend(Backend wanted, const LaunchEnvironment& environment,
                                const Capabilities& capabilities) {
  if (wanted == Backend::Auto) return select_auto(environment, capabilities);
  if (wanted == Backend::Nccl) return select_nccl(environment, capabilities);
  check_wanted(wanted, environment, capabilities);
  return {wanted, false, false, "as asked"};
}

void decide_on_nccl(BackendSelection& selection, const std::vector<std::int64_t>& gpus) {
  if (!std::exchange(selection.may_have_nccl, false)) return;
  const bool has_any = std::any_of(gpus.begin(), gpus.end(), [](auto gpu) { return gpu != 0; });
  if (!has_any) return;
  const std::string obstacle = obstacle_to_nccl(gpus);
  selection.has_nccl = obstacle.empty();
  selection.reason += selection.has_nccl
                          ? "; each rank has a GPU of its own; CPU tensors go over " +
                                std::string(to_string(selection.transport))
                          : "; no NCCL, because " + obstacle;
}

}  // namespace lockstep
