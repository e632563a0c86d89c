// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/group/comm_backend.h"
#include "comm/mpi/channels.h"
#include "comm/mpi/transport.h"

namespace lockstep {

/// The communicators of all ranks that the launcher started. Throws: `LaunchError`.
[[nodiscard]] std::unique_ptr<MpiChannels> open_mpi_world(const LaunchEnvironment& environment);

/// Ranks that talk through MPI. The base of a backend that uses more than that inside a host.
class MpiBackend : public CommBackend {
 public:
  MpiBackend(GroupContext& group, std::unique_ptr<MpiChannels> channels)
      : group_(group), channels_(std::move(channels)), transport_(*channels_) {}
  ~MpiBackend() override;

 protected:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  void abandon(const std::string& reason) noexcept override;
  void release() override;
  [[nodiscard]] bool moves(c10::DeviceType device) const override;

  [[nodiscard]] GroupContext& group() noexcept { return group_; }
  [[nodiscard]] MpiTransport& transport() noexcept { return transport_; }
  [[nodiscard]] MpiChannels& channels() noexcept { return *channels_; }

 private:
  GroupContext& group_;
  std::unique_ptr<MpiChannels> channels_;
  MpiTransport transport_;
  native::OpenMpiGroup open_;
  bool is_released_ = false;
  bool has_abandoned_ = false;
};

}  // namespace lockstep
