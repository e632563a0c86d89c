// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

namespace lockstep {

/// A world of one: every collective is complete when it returns, so that programs need no second
/// path.
class SingleProcessGroup final : public ProcessGroup {
 public:
  SingleProcessGroup(LaunchEnvironment environment, std::chrono::milliseconds timeout);

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override;
  Memory allocate_bytes(std::size_t bytes) override;
  [[nodiscard]] bool takes(c10::DeviceType device) const override;
};

}  // namespace lockstep
