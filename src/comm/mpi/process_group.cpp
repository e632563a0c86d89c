// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi/make_process_group.h"

#include <lockstep/core/error.h>

#include <string>
#include <utility>

#include "comm/exchange/operations.h"
#include "comm/group/host_memory.h"
#include "comm/mpi/process_group.h"

namespace lockstep {

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
                      ", the variables of " + environment.launcher + " say rank " +
                      std::to_string(environment.rank) + " of " +
                      std::to_string(environment.world_size) +
                      "; was the program linked with another MPI than the mpirun that started it?");
  }
  return channels;
}

MpiProcessGroup::~MpiProcessGroup() {
  // MPI may still read or write for requests that never ended, and nothing tells it to stop.
  if (is_released_) return;
  if (!is_copy_of_fork() && !is_failure_shared()) {
    MpiProcessGroup::abandon("its process group was destroyed without close()");
  }
  keep_unfinished();
  [[maybe_unused]] auto* kept = channels_.release();
}

bool MpiProcessGroup::moves(c10::DeviceType device) const {
  return device == c10::kCUDA && native::is_mpi_cuda_aware();
}

std::unique_ptr<Operation> MpiProcessGroup::make_operation(Collective call) {
  return make_exchange_operation(transport_, std::move(call));
}

std::unique_ptr<Operation> MpiProcessGroup::make_send(at::Tensor tensor, int to, int tag) {
  return make_exchange_send(transport_, std::move(tensor), to, tag);
}

std::unique_ptr<Operation> MpiProcessGroup::make_receive(at::Tensor tensor, int from, int tag) {
  return make_exchange_receive(transport_, std::move(tensor), from, tag);
}

std::shared_ptr<ProcessGroup> MpiProcessGroup::make_group(LaunchEnvironment environment,
                                                          const std::vector<int>& members) {
  return std::make_shared<MpiProcessGroup>(Backend::Mpi, std::move(environment), timeout(),
                                           std::make_unique<MpiChannels>(*channels_, members));
}

ProcessGroup::Memory MpiProcessGroup::allocate_bytes(std::size_t bytes) {
  start(make_exchange_barrier(transport_, bytes), "allocate").wait();
  auto owner = allocate_zeroed(bytes);
  void* data = owner.get();
  agree_on_memory(data != nullptr, no_memory_text(bytes, data != nullptr));
  return {data, std::move(owner)};
}

void MpiProcessGroup::abandon(const std::string& reason) noexcept {
  if (std::exchange(has_abandoned_, true)) return;
  native::give_up_mpi();
  transport_.announce_abort(reason);
}

void MpiProcessGroup::release() {
  channels_->fingerprints.free();
  channels_->data.free();
  channels_->messages.free();
  open_.end();
  is_released_ = true;
}

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment& environment,
                                                     std::chrono::milliseconds timeout) {
  return std::make_shared<MpiProcessGroup>(Backend::Mpi, environment, timeout,
                                           open_mpi_world(environment));
}

}  // namespace lockstep
