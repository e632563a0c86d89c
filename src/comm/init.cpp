// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/init.h>
#include <lockstep/core/device.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <utility>

#include "comm/mpi_process_group.h"
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

Backend choose(Backend wanted, const LaunchEnvironment& environment) {
  const bool is_one_host = environment.local_size == environment.world_size;
  switch (wanted) {
    case Backend::Auto:
      if (environment.world_size == 1) return Backend::Single;
      return is_one_host ? Backend::SharedMemory : Backend::Mpi;
    case Backend::Single:
      if (environment.world_size == 1) return wanted;
      throw LaunchError("backend Single is for a world of one; " + environment.launcher +
                        " started " + std::to_string(environment.world_size) + " ranks");
    case Backend::SharedMemory:
      if (is_one_host) return wanted;
      throw LaunchError("backend SharedMemory needs all ranks on one host; " +
                        environment.launcher + " says that " +
                        std::to_string(environment.local_size) + " of " +
                        std::to_string(environment.world_size) + " ranks are on this one");
    case Backend::Mpi:
      return wanted;
  }
  throw LaunchError("unknown backend " + std::to_string(static_cast<int>(wanted)));
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
  const Backend backend = choose(options.backend(), environment);
  logging::info("rank " + std::to_string(environment.rank) + " of " +
                std::to_string(environment.world_size) + ", launched by " + environment.launcher +
                ": backend " + std::string(to_string(backend)));
  switch (backend) {
    case Backend::SharedMemory:
      return std::make_shared<SharedMemoryProcessGroup>(environment, options.timeout());
    case Backend::Mpi:
      return make_mpi_process_group(environment, options.timeout());
    default:
      return std::make_shared<SingleProcessGroup>(environment, options.timeout());
  }
}

c10::Device bind_device(const ProcessGroup& group) {
  return bind_device(group.local_rank());
}

}  // namespace lockstep
