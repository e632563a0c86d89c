// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi/backend.h"

#include <lockstep/core/error.h>

#include <string>
#include <utility>

#include "comm/group/group_core.h"
#include "comm/mpi/make_process_group.h"

namespace lockstep {
namespace {

/// The communicators of all ranks that the launcher started. Throws: `LaunchError`.
std::unique_ptr<MpiChannels> open_mpi_world(const LaunchEnvironment& environment) {
  std::unique_ptr<MpiChannels> channels;
  try {
    native::ensure_mpi();
    channels = std::make_unique<MpiChannels>();
  } catch (const std::runtime_error& error) {
    throw LaunchError(error.what());
  }
  const int rank = channels->data.rank();
  const int size = channels->data.size();
  if (rank != environment.rank || size != environment.world_size) {
    throw LaunchError("MPI says rank " + std::to_string(rank) + " of " + std::to_string(size) +
                      ", the variables of " + to_string(environment.launcher) + " say rank " +
                      std::to_string(environment.rank) + " of " +
                      std::to_string(environment.world_size) +
                      "; was the program linked with another MPI than the mpirun that started it?");
  }
  return channels;
}

}  // namespace

MpiBackend::~MpiBackend() {
  // MPI may still read or write for requests that never ended, and nothing tells it to stop.
  if (is_released_) return;
  if (!group().is_copy_of_fork() && !group().is_failure_shared()) {
    MpiBackend::abort("its process group was destroyed without close()");
  }
  group().keep_unfinished();
  [[maybe_unused]] auto* kept = channels_.release();
}

bool MpiBackend::moves_data_on(c10::DeviceType device) const {
  return device == c10::kCUDA && native::is_mpi_cuda_aware();
}

std::unique_ptr<CommBackend> MpiBackend::make_group(GroupContext& part,
                                                    const std::vector<int>& members) {
  return std::make_unique<MpiBackend>(part, std::make_unique<MpiChannels>(*channels_, members));
}

void MpiBackend::abort(const std::string& reason) noexcept {
  native::skip_mpi_finalize();
  ExchangeBackend::abort(reason);
}

void MpiBackend::release() {
  channels_->fingerprints.free();
  channels_->data.free();
  channels_->messages.free();
  open_.end();
  is_released_ = true;
}

std::unique_ptr<ExchangeBackend> make_mpi_backend(GroupContext& group) {
  return std::make_unique<MpiBackend>(group, open_mpi_world(group.environment()));
}

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment& environment,
                                                     std::chrono::milliseconds timeout) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Mpi, environment, timeout, make_mpi_backend));
}

}  // namespace lockstep
