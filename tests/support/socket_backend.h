// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/exchange/backend.h"
#include "comm/group/group_context.h"
#include "support/socket_transport.h"

namespace lockstep::testing {

/// The smallest backend that passes messages. `AnyTransport` is made as a `SocketTransport` is.
template <typename AnyTransport>
class BackendOver final : public ExchangeBackend {
 public:
  explicit BackendOver(GroupContext& group)
      : ExchangeBackend(group),
        transport_(group.environment().job_id, group.rank(), group.size()) {}
  ~BackendOver() override {
    if (!group().is_closed() && !group().is_failure_shared()) abort("it left");
  }

 private:
  [[nodiscard]] Transport& transport() noexcept override { return transport_; }
  std::unique_ptr<CommBackend> make_group(GroupContext& part, const std::vector<int>&) override {
    return std::make_unique<BackendOver>(part);
  }

  AnyTransport transport_;
};

using SocketBackend = BackendOver<SocketTransport>;

}  // namespace lockstep::testing
