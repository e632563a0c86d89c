// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <memory>
#include <vector>

#include "comm/nccl/collectives.h"
#include "comm/nccl/communicator.h"
#include "comm/nccl/launch.h"
#include "concurrency/watchdog.h"

namespace lockstep {

/// CUDA tensors over NCCL, everything else over a *side group* of the CPU that connects the same
/// ranks: CPU tensors, barriers, the meeting of NCCL's communicator, comparing of calls, and word
/// of a rank that has gone.
///
/// The communicator is made at the group's first collective on a CUDA tensor (or `allocate` there),
/// on that tensor's device, and all later ones must be there too.
class NcclProcessGroup final : public ProcessGroup {
 public:
  /// `side`: used by this group alone. `check_calls`: see `ProcessGroupOptions`.
  NcclProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
                   std::shared_ptr<ProcessGroup> side, NcclServices services, bool check_calls);
  ~NcclProcessGroup() override;

 private:
  ProcessGroup& carrier_of(c10::DeviceType device) override {
    return takes(device) ? *this : *side_;
  }
  [[nodiscard]] bool takes(c10::DeviceType device) const override {
    return device == services_.device_type;
  }
  [[nodiscard]] bool has_memory_on(c10::DeviceType device) const override { return takes(device); }
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>& members) override;
  void decline_group() override;
  void begin_coalescing() override;
  void end_coalescing() override;
  Memory allocate_bytes(std::size_t bytes) override;
  Memory allocate_on(c10::Device device, std::size_t bytes) override;
  void release() override;
  void abandon(const std::string& reason) noexcept override;
  void leave_all_alone() noexcept;

  /// Collective at the first call. Blocks then.
  void ensure_communicator(c10::Device device, const char* op);
  void check_device(c10::Device device, const char* op) const;
  /// Without an index a device is the current one.
  [[nodiscard]] int index_of(c10::Device device) const;
  void meet(int device, const char* op);
  [[nodiscard]] std::shared_ptr<NcclCommunicator> make_communicator(int device);
  void adopt(std::shared_ptr<NcclCommunicator> communicator);
  std::unique_ptr<Operation> enqueue(NcclTask task, const char* op);
  /// Blocks: until everything called so far is enqueued.
  void settle(const Deadline& deadline, const char* op);
  /// Divides the communicator, where there is one. Collective. Blocks.
  void divide_communicator(NcclProcessGroup* child, int color, int key);
  /// Runs `body`; what it throws as `OperationFailure` fails the group, as an operation's would.
  template <typename Body>
  void guarded(const char* op, const Body& body);

  std::shared_ptr<ProcessGroup> side_;
  NcclServices services_;
  bool checks_calls_;
  NcclCommunicator::PeerWatch peer_watch_;  // null: the side group has none
  std::shared_ptr<NcclCommunicator> communicator_;
  std::shared_ptr<NcclLine> line_ = std::make_shared<NcclLine>();
  bool is_coalescing_ = false;
  std::shared_ptr<NcclLaunch> batch_;   // of coalesced calls, from the first of them on
  std::unique_ptr<Watchdog> watchdog_;  // ends before what it looks at
};

}  // namespace lockstep
