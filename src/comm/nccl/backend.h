// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/environment.h>

#include <chrono>
#include <memory>
#include <vector>

#include "comm/group/comm_backend.h"
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
class NcclBackend final : public CommBackend {
 public:
  /// `side`: used by this group alone. `check_calls`: see `ProcessGroupOptions`.
  NcclBackend(GroupContext& group, std::shared_ptr<ProcessGroup> side, NcclServices services,
              bool check_calls);
  ~NcclBackend() override;

 private:
  [[nodiscard]] GroupCore* group_for(c10::DeviceType device) override {
    return supports(device) ? nullptr : &side_->core();
  }
  [[nodiscard]] bool supports(c10::DeviceType device) const override {
    return device == services_.device_type;
  }
  [[nodiscard]] bool has_memory_on(c10::DeviceType device) const override {
    return supports(device);
  }
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override;
  void split_without_color() override;
  void begin_coalescing() override;
  void end_coalescing() override;
  Memory allocate(c10::Device device, std::size_t bytes) override;
  void release() override;
  void abort(const std::string& reason) noexcept override;
  void leave_all_alone() noexcept;

  /// Collective at the first call. Blocks then.
  void ensure_communicator(c10::Device device, const char* op);
  void check_device(c10::Device device, const char* op) const;
  /// Without an index a device is the current one.
  [[nodiscard]] int index_of(c10::Device device) const;
  void meet(int device, const char* op);
  [[nodiscard]] std::shared_ptr<NcclCommunicator> make_communicator(int device);
  void adopt(std::shared_ptr<NcclCommunicator> communicator);
  /// Finds what the watchdog found, and gives back tensors that are free by now. Throws: the
  /// group's failure.
  void catch_up(const char* op);
  void progress() noexcept;
  std::unique_ptr<Operation> enqueue(NcclTask task, const char* op);
  /// Blocks: until everything called so far is enqueued.
  void settle(const Deadline& deadline, const char* op);
  /// Divides the communicator, where there is one. Collective. Blocks.
  void divide_communicator(NcclBackend* child, int color, int key);
  /// Runs `body`; what it throws as `OperationFailure` fails the group, as an operation's would.
  template <typename Body>
  void guarded(const char* op, const Body& body);

  GroupContext& group_;
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

/// A group over NCCL; the arguments are those of `NcclBackend`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_nccl_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    std::shared_ptr<ProcessGroup> side, const NcclServices& services, bool check_calls);

}  // namespace lockstep
