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
  /// Collective: the rendezvous of the ranks. Throws: `LaunchError`.
  explicit SharedMemoryBackend(GroupContext& group);
  ~SharedMemoryBackend() override;

  /// For a group of several hosts, whose part inside one host this backend is.
  [[nodiscard]] SharedMemoryTransport& transport() noexcept { return *transport_; }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  void mark_indexed(const void* data) override;
  [[nodiscard]] bool shares_memory(const void* data, std::size_t bytes) const override;
  [[nodiscard]] void* memory_of(const void* data, int rank) const override;
  [[nodiscard]] std::function<std::string()> peer_watch() override;
  void release() override;
  void abort(const std::string& reason) noexcept override;
  void forget_names() noexcept override;

  GroupContext& group_;
  // Until close: the rendezvous of a next group of this job uses the same names.
  std::optional<HostChannel> channel_;
  std::unique_ptr<SharedMemoryTransport> transport_;
  bool has_aborted_ = false;
};

/// Collective: the rendezvous of the ranks. Throws: `LaunchError`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_shared_memory_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout);

}  // namespace lockstep
