// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "comm/group/comm_backend.h"
#include "comm/shared_memory/host_channel.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

/// Ranks of one host, which may also be threads of one process. CPU tensors.
class SharedMemoryBackend final : public CommBackend {
 public:
  /// Collective: meets the other ranks. Throws: `LaunchError`.
  explicit SharedMemoryBackend(GroupContext& group);
  ~SharedMemoryBackend() override;

  /// For a group of several hosts, of which this one carries a host's part.
  [[nodiscard]] SharedMemoryTransport& transport() noexcept { return *transport_; }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  void keep_for_pieces(const void* data) override;
  [[nodiscard]] bool shares_memory(const void* data, std::size_t bytes) const override;
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;
  void abandon(const std::string& reason) noexcept override;
  void forget_names() noexcept override;

  GroupContext& group_;
  std::optional<HostChannel>
      channel_;  // until close: a next group of this job meets under the same names
  std::unique_ptr<SharedMemoryTransport> transport_;
  bool has_abandoned_ = false;
};

/// Collective: meets the other ranks. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_shared_memory_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout);

}  // namespace lockstep
