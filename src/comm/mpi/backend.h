// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/exchange/backend.h"
#include "comm/mpi/channels.h"
#include "comm/mpi/transport.h"

namespace lockstep {

/// Ranks that talk through MPI.
class MpiBackend final : public ExchangeBackend {
 public:
  MpiBackend(GroupContext& group, std::unique_ptr<MpiChannels> channels)
      : ExchangeBackend(group), channels_(std::move(channels)), transport_(*channels_) {}
  ~MpiBackend() override;

 private:
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  void abort(const std::string& reason) noexcept override;
  void release() override;
  [[nodiscard]] bool moves_data_on(c10::DeviceType device) const override;

  [[nodiscard]] MpiTransport& transport() noexcept override { return transport_; }

  std::unique_ptr<MpiChannels> channels_;
  MpiTransport transport_;
  native::OpenMpiGroup open_;
  bool is_released_ = false;
};

}  // namespace lockstep
