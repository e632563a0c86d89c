// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/exchange/backend.h"
#include "comm/mpi/channels.h"
#include "comm/mpi/transport.h"

namespace lockstep {

/// The communicators of all ranks that the launcher started. Throws: `LaunchError`.
[[nodiscard]] std::unique_ptr<MpiChannels> open_mpi_world(const LaunchEnvironment& environment);

/// Ranks that talk through MPI. The base of a backend that uses more than that inside a host.
class MpiBackend : public ExchangeBackend {
 public:
  MpiBackend(GroupContext& group, std::unique_ptr<MpiChannels> channels)
      : ExchangeBackend(group), channels_(std::move(channels)), transport_(*channels_) {}
  ~MpiBackend() override;

 protected:
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  void abort(const std::string& reason) noexcept override;
  void release() override;
  [[nodiscard]] bool moves_data_on(c10::DeviceType device) const override;

  [[nodiscard]] MpiTransport& transport() noexcept final { return transport_; }
  [[nodiscard]] MpiChannels& channels() noexcept { return *channels_; }

 private:
  std::unique_ptr<MpiChannels> channels_;
  MpiTransport transport_;
  native::OpenMpiGroup open_;
  bool is_released_ = false;
};

}  // namespace lockstep
