// SPDX-License-Identifier: BSD-3-Clause
#include "comm/bootstrap/backends.h"

#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <array>
#include <string>

#include "comm/bootstrap/between_hosts.h"
#include "comm/bootstrap/link_choice.h"
#include "comm/gloo/make_process_group.h"
#include "comm/group/group_core.h"
#include "comm/hierarchical/make_process_group.h"
#include "comm/hierarchical/mpi_reduction.h"
#include "comm/hierarchical/tcp_reduction.h"
#include "comm/mpi/make_process_group.h"
#include "comm/shared_memory/backend.h"
#include "comm/single/backend.h"
#include "comm/tcp/backend.h"

namespace lockstep {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) throw LaunchError(message);
}

void check_single_launch(const LaunchEnvironment& environment, const Capabilities&) {
  require(environment.world_size == 1, "backend Single is for a world of one; " +
                                           to_string(environment.launcher) + " started " +
                                           std::to_string(environment.world_size) + " ranks");
}

void check_shared_memory_launch(const LaunchEnvironment& environment, const Capabilities&) {
  require(environment.local_size == environment.world_size,
          "backend SharedMemory needs all ranks on one host; " + to_string(environment.launcher) +
              " says that " + std::to_string(environment.local_size) + " of " +
              std::to_string(environment.world_size) + " ranks are on this host");
}

void check_mpi_launch(const LaunchEnvironment&, const Capabilities& capabilities) {
  require(capabilities.has_mpi,
          "this build of Lockstep has no MPI backend; build it with -DLOCKSTEP_WITH_MPI=ON, or run "
          "all ranks on one host");
}

void check_hierarchical_launch(const LaunchEnvironment& environment,
                               const Capabilities& capabilities) {
  static_cast<void>(select_between_hosts(environment, capabilities));
}

void check_gloo_launch(const LaunchEnvironment&, const Capabilities& capabilities) {
  require(capabilities.has_gloo,
          "this build of Lockstep has no gloo backend; its headers (libgloo-dev) were not found "
          "when it was built");
  require(capabilities.has_rendezvous,
          "backend Gloo needs MASTER_ADDR and MASTER_PORT, as torchrun sets them: a host of the "
          "job and a free port there, the same on all ranks");
}

std::shared_ptr<ProcessGroup> make_single(const LaunchEnvironment& environment,
                                          std::chrono::milliseconds timeout) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Single, environment, timeout, make_single_backend));
}

std::shared_ptr<ProcessGroup> make_gloo(const LaunchEnvironment& environment,
                                        std::chrono::milliseconds timeout) {
  return make_gloo_process_group(environment, timeout, GlooRendezvous::detect());
}

std::shared_ptr<ProcessGroup> make_hierarchical(const LaunchEnvironment& environment,
                                                std::chrono::milliseconds timeout) {
  const auto between = select_between_hosts(environment, Capabilities::detect());
  const bool has_mpi = between.backend == Backend::Mpi;
  const auto make_bootstrap = [has_mpi](GroupContext& group) {
    return has_mpi ? make_mpi_backend(group) : make_gloo_backend(group, GlooRendezvous::detect());
  };
  if (!between.is_over_tcp) {
    const auto say = [has_mpi](GroupContext&, HostLink&, const HostLayout&) {
      return std::string(has_mpi ? "MPI" : "gloo") + ", as LOCKSTEP_BETWEEN_HOSTS asks";
    };
    return make_hierarchical_process_group(environment, timeout, make_bootstrap,
                                           has_mpi ? make_mpi_reduction : make_round_reduction,
                                           say);
  }
  const auto make_tcp = [&](GroupContext& group) {
    return std::make_unique<TcpBackend>(group, make_bootstrap(group));
  };
  const auto choose = [may_be_mpi = between.may_be_mpi](GroupContext& group, HostLink& link,
                                                        const HostLayout& layout) {
    std::string text = choose_link_beside_tcp(group, link, layout, may_be_mpi);
    if (group.rank() == 0) logging::info("between hosts: " + text);
    return text;
  };
  return make_hierarchical_process_group(environment, timeout, make_tcp, make_tcp_host_reduction,
                                         choose);
}

constexpr std::array kBackends{
    BackendRow{Backend::Auto, "Auto", nullptr, nullptr},
    BackendRow{Backend::Single, "Single", check_single_launch, make_single},
    BackendRow{Backend::SharedMemory, "SharedMemory", check_shared_memory_launch,
               make_shared_memory_process_group},
    BackendRow{Backend::Mpi, "Mpi", check_mpi_launch, make_mpi_process_group},
    BackendRow{Backend::Hierarchical, "Hierarchical", check_hierarchical_launch, make_hierarchical},
    BackendRow{Backend::Gloo, "Gloo", check_gloo_launch, make_gloo},
    // Beside one of the others.
    BackendRow{Backend::Nccl, "Nccl", nullptr, nullptr},
};

const BackendRow* find_row(Backend backend) {
  const auto row = std::find_if(kBackends.begin(), kBackends.end(),
                                [&](const BackendRow& one) { return one.backend == backend; });
  return row == kBackends.end() ? nullptr : &*row;
}

}  // namespace

std::string_view to_string(Backend backend) {
  const BackendRow* row = find_row(backend);
  return row == nullptr ? "unknown" : row->name;
}

const BackendRow* find_backend(Backend backend) {
  const BackendRow* row = find_row(backend);
  return row == nullptr || row->make == nullptr ? nullptr : row;
}

}  // namespace lockstep
