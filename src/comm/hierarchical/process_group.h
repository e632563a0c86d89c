// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/hierarchical/hierarchy.h"
#include "comm/mpi/process_group.h"
#include "comm/shared_memory/process_group.h"

namespace lockstep {

/// Ranks of several hosts: shared memory inside a host, MPI between them.
class HierarchicalProcessGroup final : public MpiProcessGroup {
 public:
  HierarchicalProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
                           std::unique_ptr<MpiChannels> channels)
      : MpiProcessGroup(Backend::Hierarchical, environment, timeout, std::move(channels)) {}

  /// Collective: finds out which ranks share a host, and meets those of this one. Comes before any
  /// other call.
  void meet();

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override;
  Memory allocate_bytes(std::size_t bytes) override;
  void abandon(const std::string& reason) noexcept override;
  /// Of the ranks of this host alone: MPI has no look that any thread may take.
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;
  /// Inside a host the CPU moves the bytes.
  [[nodiscard]] bool moves(c10::DeviceType) const override { return false; }

  [[nodiscard]] HostLayout find_hosts();
  void meet_host(const HostLayout& layout);
  void open_leaders();

  std::shared_ptr<SharedMemoryProcessGroup> local_;  // null: this rank is alone on its host
  std::optional<MpiHierarchy> hierarchy_;            // from `meet` on
};

}  // namespace lockstep
