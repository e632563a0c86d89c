// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <memory>
#include <optional>
#include <vector>

#include "comm/shared_memory/host_channel.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

/// Ranks of one host, which may also be threads of one process. CPU tensors.
class SharedMemoryProcessGroup final : public ProcessGroup {
 public:
  /// Collective: meets the other ranks. Throws: `LaunchError`.
  SharedMemoryProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout);
  ~SharedMemoryProcessGroup() override;

  // For a group of several hosts, of which this one carries a host's part.
  [[nodiscard]] SharedMemoryTransport& transport() noexcept { return *transport_; }
  void forget_names() noexcept override;
  void abandon(const std::string& reason) noexcept override;
  using ProcessGroup::Memory;
  [[nodiscard]] Memory allocate_block(std::size_t bytes) { return allocate_bytes(bytes); }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override;
  Memory allocate_bytes(std::size_t bytes) override;
  void keep_for_pieces(const void* data) override;
  [[nodiscard]] bool shares_memory(const void* data, std::size_t bytes) const override;
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;

  std::optional<HostChannel>
      channel_;  // until close: a next group of this job meets under the same names
  std::unique_ptr<SharedMemoryTransport> transport_;
  bool has_abandoned_ = false;
};

}  // namespace lockstep
