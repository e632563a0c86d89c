// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <lockstep/comm/init.h>
#include <lockstep/core/device.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "comm/bootstrap/backend_selection.h"
#include "comm/bootstrap/backends.h"
#include "comm/nccl/backend.h"
#include "comm/nccl/interfaces.h"
#include "native/posix/host_name.h"

namespace lockstep {
namespace {

void check(const LaunchEnvironment& environment) {
  TORCH_CHECK(environment.world_size > 0, "init_process_group: world size is ",
              environment.world_size, "; it must be 1 or more");
  TORCH_CHECK(environment.rank >= 0 && environment.rank < environment.world_size,
              "init_process_group: rank is ", environment.rank, "; in a world of ",
              environment.world_size, " it must be 0 to ", environment.world_size - 1);
}

/// Which GPU of which host `bind_device` gives this rank; 0 where there is none.
std::int64_t gpu_number(const LaunchEnvironment& environment, const Capabilities& capabilities) {
  if (capabilities.gpus == 0) return 0;
  const std::string address = gpu_address(environment.local_rank % capabilities.gpus);
  const auto number = static_cast<std::int64_t>(
      std::hash<std::string>{}(std::to_string(native::host_hash()) + " " + address));
  return number == 0 ? 1 : number;
}

/// NCCL reads them from the environment, which nothing may change once a group has threads.
void prepare_nccl_network(const BackendSelection& selection, const LaunchEnvironment& environment) {
  const bool may_come = selection.has_nccl || selection.may_have_nccl;
  if (may_come && environment.local_size < environment.world_size) {
    static_cast<void>(set_nccl_interfaces());
  }
}

std::vector<std::int64_t> gather(ProcessGroup& group, std::int64_t number) {
  const auto all = at::empty({group.size()}, at::kLong);
  group.all_gather(all, at::full({1}, number, at::kLong)).wait();
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  return {numbers, numbers + group.size()};
}

}  // namespace

std::shared_ptr<ProcessGroup> init_process_group(const ProcessGroupOptions& options) {
  LaunchEnvironment environment =
      options.environment() ? *options.environment() : LaunchEnvironment::detect();
  check(environment);
  // Ranks find each other by the job id. Processes that no launcher started must not find another.
  if (environment.world_size == 1 && environment.job_id.empty()) {
    environment.job_id =
        "standalone " + std::to_string(::getpid()) + " " +
        std::to_string(std::chrono::steady_clock::now().time_since_epoch().count());
  }
  TORCH_CHECK(options.timeout().count() > 0, "init_process_group: timeout is ",
              options.timeout().count(), " ms; it must be positive");
  const Capabilities capabilities = Capabilities::detect();
  BackendSelection selection = select_backend(options.backend(), environment, capabilities);
  prepare_nccl_network(selection, environment);
  logging::debug("rank " + std::to_string(environment.rank) + " meets the others over " +
                 std::string(to_string(selection.transport)));
  auto transport = find_backend(selection.transport)->make(environment, options.timeout());
  if (selection.may_have_nccl) {
    decide_on_nccl(selection, gather(*transport, gpu_number(environment, capabilities)));
  }
  logging::info("rank " + std::to_string(environment.rank) + " of " +
                std::to_string(environment.world_size) + ", launched by " +
                to_string(environment.launcher) + ": backend " +
                std::string(to_string(selection.backend())) + " (" + selection.reason + ")");
  if (!selection.has_nccl) return transport;
  return make_nccl_process_group(environment, options.timeout(), std::move(transport),
                                 make_nccl_services(), options.check_calls());
}

c10::Device bind_device(const ProcessGroup& group) {
  return bind_device(group.local_rank());
}

}  // namespace lockstep
