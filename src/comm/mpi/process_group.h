// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/mpi/channels.h"
#include "comm/mpi/transport.h"

namespace lockstep {

/// The communicators of all ranks that the launcher started. Throws: `LaunchError`.
[[nodiscard]] std::unique_ptr<MpiChannels> open_mpi_world(const LaunchEnvironment& environment);

/// Ranks that talk through MPI. The base of groups that use more than that inside a host.
class MpiProcessGroup : public ProcessGroup {
 public:
  MpiProcessGroup(Backend backend, const LaunchEnvironment& environment,
                  std::chrono::milliseconds timeout, std::unique_ptr<MpiChannels> channels)
      : ProcessGroup(backend, environment, timeout),
        channels_(std::move(channels)),
        transport_(*channels_) {}
  ~MpiProcessGroup() override;

 protected:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override;
  Memory allocate_bytes(std::size_t bytes) override;
  void abandon(const std::string& reason) noexcept override;
  void release() override;
  [[nodiscard]] bool moves(c10::DeviceType device) const override;

  [[nodiscard]] MpiTransport& transport() noexcept { return transport_; }
  [[nodiscard]] MpiChannels& channels() noexcept { return *channels_; }

 private:
  std::unique_ptr<MpiChannels> channels_;
  MpiTransport transport_;
  native::OpenMpiGroup open_;
  bool is_released_ = false;
  bool has_abandoned_ = false;
};

}  // namespace lockstep
