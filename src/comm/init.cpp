// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/init.h>
#include <lockstep/core/device.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <utility>

#include "comm/backend_choice.h"
#include "comm/gloo_process_group.h"
#include "comm/mpi_process_group.h"
#include "comm/nccl_process_group.h"
#include "comm/shared_memory_process_group.h"
#include "comm/single_process_group.h"

namespace lockstep {
namespace {

void check(const LaunchEnvironment& environment) {
  TORCH_CHECK(environment.world_size > 0, "init_process_group: world size is ",
              environment.world_size, "; it must be 1 or more");
  TORCH_CHECK(environment.rank >= 0 && environment.rank < environment.world_size,
              "init_process_group: rank is ", environment.rank, "; in a world of ",
              environment.world_size, " it must be 0 to ", environment.world_size - 1);
}

std::shared_ptr<ProcessGroup> make_transport(Backend backend, const LaunchEnvironment& environment,
                                             std::chrono::milliseconds timeout) {
  switch (backend) {
    case Backend::SharedMemory:
      return std::make_shared<SharedMemoryProcessGroup>(environment, timeout);
    case Backend::Mpi:
      return make_mpi_process_group(environment, timeout);
    case Backend::Hierarchical:
      return make_hierarchical_process_group(environment, timeout);
    case Backend::Gloo:
      return make_gloo_process_group(environment, timeout, GlooRendezvous::detect());
    default:
      return std::make_shared<SingleProcessGroup>(environment, timeout);
  }
}

}  // namespace

std::shared_ptr<ProcessGroup> init_process_group(const ProcessGroupOptions& options) {
  LaunchEnvironment environment =
      options.environment() ? *options.environment() : LaunchEnvironment::detect();
  check(environment);
  // Ranks meet under the job id; somebody alone must not meet others who are.
  if (environment.world_size == 1 && environment.job_id.empty()) {
    environment.job_id =
        "alone " + std::to_string(::getpid()) + " " +
        std::to_string(std::chrono::steady_clock::now().time_since_epoch().count());
  }
  TORCH_CHECK(options.timeout().count() > 0, "init_process_group: timeout is ",
              options.timeout().count(), " ms; it must be positive");
  const BackendChoice choice =
      choose_backend(options.backend(), environment, Surroundings::detect());
  logging::info("rank " + std::to_string(environment.rank) + " of " +
                std::to_string(environment.world_size) + ", launched by " + environment.launcher +
                ": backend " + std::string(to_string(choice.backend())) + " (" + choice.reason +
                ")");
  auto transport = make_transport(choice.transport, environment, options.timeout());
  if (!choice.has_nccl) return transport;
  return std::make_shared<NcclProcessGroup>(environment, options.timeout(), std::move(transport),
                                            make_nccl_services(), options.check_calls());
}

c10::Device bind_device(const ProcessGroup& group) {
  return bind_device(group.local_rank());
}

}  // namespace lockstep
