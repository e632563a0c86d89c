// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/group/group_core.h"
#include "comm/hierarchical/hierarchy.h"
#include "comm/mpi/backend.h"

namespace lockstep {

/// Ranks of several hosts: shared memory inside a host, MPI between them.
class HierarchicalBackend final : public MpiBackend {
 public:
  using MpiBackend::MpiBackend;

 private:
  /// Finds out which ranks share a host, and meets those of this one.
  void start() override;
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  void abort(const std::string& reason) noexcept override;
  /// Watches only the ranks of this host: MPI has no call for it that any thread may make.
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;
  /// Inside a host the CPU moves the bytes.
  [[nodiscard]] bool moves_data_on(c10::DeviceType) const override { return false; }

  [[nodiscard]] HostLayout find_hosts();
  [[nodiscard]] SharedMemoryTransport* meet_host(const HostLayout& layout);
  void open_leaders();

  std::shared_ptr<GroupCore> local_;       // null: this rank is alone on its host
  std::optional<MpiHierarchy> hierarchy_;  // from `start` on
};

}  // namespace lockstep
