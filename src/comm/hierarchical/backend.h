// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exchange/backend.h"
#include "comm/group/group_core.h"
#include "comm/hierarchical/hierarchy.h"
#include "comm/hierarchical/host_link.h"

namespace lockstep {

/// Ranks of several hosts: shared memory inside a host, and another backend between the hosts.
class HierarchicalBackend final : public CommBackend {
 public:
  /// `link`: its backend is one of the same group. `choose` may be empty.
  HierarchicalBackend(GroupContext& group, HostLink link, ChooseHostLink choose)
      : group_(group), link_(std::move(link)), choose_(std::move(choose)) {}

 private:
  /// Finds out which ranks share a host, and meets those of this one.
  void start() override;
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  void split_without_color() override { link_.backend->split_without_color(); }
  Memory allocate(c10::Device device, std::size_t bytes) override;
  [[nodiscard]] bool shares_memory(const void* data, std::size_t bytes) const override;
  void mark_indexed(const void* data) override;
  [[nodiscard]] std::string describe_link() const override { return link_text_; }
  void abort(const std::string& reason) noexcept override;
  /// Watches the ranks of this host, and the others as far as the other backend can.
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;
  void forget_names() noexcept override;

  [[nodiscard]] HostLayout find_hosts();
  /// What carries messages to and from that rank on this host; null: it is on another one.
  [[nodiscard]] SharedMemoryMessages* messages_with(int peer);
  /// Whether no host has more than one rank: then reductions are the other backend's.
  [[nodiscard]] bool is_flat() const {
    return hierarchy_->layout.hosts.size() == static_cast<std::size_t>(group_.size());
  }
  [[nodiscard]] SharedMemoryTransport* meet_host(const HostLayout& layout);

  GroupContext& group_;
  HostLink link_;  // goes after what is on this host
  ChooseHostLink choose_;
  std::string link_text_;
  std::shared_ptr<GroupCore> local_;    // null: this rank is alone on its host
  std::optional<Hierarchy> hierarchy_;  // from `start` on
};

}  // namespace lockstep
