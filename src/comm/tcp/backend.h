// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exchange/backend.h"
#include "comm/exchange/link_speed.h"
#include "comm/tcp/transport.h"

namespace lockstep {

/// Ranks that talk through TCP sockets of their own. How to reach each other they tell over another
/// backend of the same ranks, which also makes groups of some of them.
class TcpBackend final : public ExchangeBackend {
 public:
  /// `bootstrap`: made with the same group.
  TcpBackend(GroupContext& group, std::unique_ptr<CommBackend> bootstrap)
      : ExchangeBackend(group), bootstrap_(std::move(bootstrap)) {}
  ~TcpBackend() override;

  /// Connects the ranks.
  void start() override;
  [[nodiscard]] TcpTransport& transport() noexcept override { return *transport_; }
  [[nodiscard]] bool is_quickest_for(const Collective& call) const override;
  /// How fast the links between hosts are, for the sizes of what goes over them. The same on all
  /// ranks, and no collective is under way.
  void set_link_speed(const LinkSpeed& speed);
  [[nodiscard]] std::string describe_link() const override;

  [[nodiscard]] CommBackend& bootstrap() noexcept { return *bootstrap_; }
  /// Closes the connections and gives up the other backend, which can do all that this one can.
  /// Collective. Blocks: until all ranks have called it, or a few seconds.
  [[nodiscard]] std::unique_ptr<CommBackend> take_bootstrap();

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  [[nodiscard]] bool shares_memory(const void* data, std::size_t bytes) const override;
  void split_without_color() override { bootstrap_->split_without_color(); }
  void abort(const std::string& reason) noexcept override;
  void release() override;
  void forget_names() noexcept override { bootstrap_->forget_names(); }
  [[nodiscard]] std::function<std::string()> peer_watch() override;

  void close_connections();
  [[nodiscard]] std::vector<TcpContact> exchange_contacts(const TcpContact& own);

  struct Allocation {
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::weak_ptr<void> owner;
  };

  std::unique_ptr<CommBackend> bootstrap_;
  LinkSpeed speed_;
  std::vector<Allocation> allocations_;
  std::shared_ptr<TcpConnections> connections_;
  std::optional<TcpTransport> transport_;
  bool is_released_ = false;
};

}  // namespace lockstep
