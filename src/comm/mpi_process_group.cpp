// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi_process_group.h"

#include <lockstep/core/error.h>

#include <string>
#include <utility>

#include "comm/mpi_operations.h"
#include "comm/single_process_group.h"

namespace lockstep {
namespace {

class MpiProcessGroup final : public ProcessGroup {
 public:
  MpiProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
                  std::unique_ptr<MpiChannels> channels)
      : ProcessGroup(Backend::Mpi, environment, timeout), channels_(std::move(channels)) {}

  ~MpiProcessGroup() override {
    // MPI may still read or write for requests that never ended, and nothing tells it to stop.
    if (is_released_) return;
    if (!is_failure_shared()) abandon("its process group was destroyed without close()");
    keep_unfinished();
    [[maybe_unused]] auto* kept = channels_.release();
  }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override {
    return make_mpi_operation(*channels_, std::move(call));
  }

  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override {
    return make_mpi_send(*channels_, std::move(tensor), to, tag);
  }
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override {
    return make_mpi_receive(*channels_, std::move(tensor), from, tag);
  }

  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override {
    return std::make_shared<MpiProcessGroup>(std::move(environment), timeout(),
                                             std::make_unique<MpiChannels>(*channels_, members));
  }

  Memory allocate_bytes(std::size_t bytes) override {
    auto owner = allocate_zeroed(bytes);
    void* data = owner.get();
    return {data, std::move(owner)};
  }

  void abandon(const std::string& reason) noexcept override {
    if (std::exchange(has_abandoned_, true)) return;
    native::give_up_mpi();
    announce_leaving(*channels_, reason);
  }

  void release() override {
    channels_->fingerprints.free();
    channels_->data.free();
    channels_->messages.free();
    is_released_ = true;
  }

  std::unique_ptr<MpiChannels> channels_;
  bool is_released_ = false;
  bool has_abandoned_ = false;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_mpi_process_group(const LaunchEnvironment& environment,
                                                     std::chrono::milliseconds timeout) {
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
  return std::make_shared<MpiProcessGroup>(environment, timeout, std::move(channels));
}

}  // namespace lockstep
