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
#include "comm/nccl/launch_queue.h"
#include "comm/nccl/window_registry.h"
#include "concurrency/watchdog.h"

namespace lockstep {

/// CUDA tensors over NCCL, everything else over a *control group* of the CPU that connects the same
/// ranks: CPU tensors, barriers, the start of NCCL's communicator, the comparison of calls, and the
/// news that a rank has gone.
///
/// The group's first collective on a CUDA tensor (or `allocate` there) makes the communicator on
/// that tensor's device. The tensors of all later calls must be on the same device.
class NcclBackend final : public CommBackend {
 public:
  /// `control`: no other group uses it. `check_calls`: see `ProcessGroupOptions`.
  NcclBackend(GroupContext& group, std::shared_ptr<ProcessGroup> control, NcclServices services,
              bool check_calls);
  ~NcclBackend() override;

 private:
  [[nodiscard]] GroupCore* group_for(c10::DeviceType device) override {
    return supports(device) ? nullptr : &control_->core();
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
  Memory allocate(c10::Device device, std::size_t bytes) override {
    return allocate(device, bytes, false);
  }
  Memory allocate_symmetric(c10::Device device, std::size_t bytes) override;
  [[nodiscard]] bool prefers_sum(const void* data, std::size_t bytes,
                                 at::ScalarType dtype) const override;
  [[nodiscard]] bool can_be_captured() const override { return true; }
  void check_graph(const char* op) override;
  void watch_graph(const char* op) override;
  std::string end_capture() override;
  void release() override;
  void abort(const std::string& reason) noexcept override;
  void leave_all_alone() noexcept;

  Memory allocate(c10::Device device, std::size_t bytes, bool is_symmetric);
  /// All ranks take the sums of this memory, or none does: NCCL would add averages to sums.
  /// Collective. Blocks.
  void agree_on_symmetry(const void* data, std::size_t bytes, const Deadline& deadline);

  /// The first call is collective, and blocks.
  void ensure_communicator(c10::Device device, const char* op);
  void check_device(c10::Device device, const char* op) const;
  /// A device without an index is the current one.
  [[nodiscard]] int index_of(c10::Device device) const;
  void start_communicator(int device, const char* op);
  [[nodiscard]] std::shared_ptr<NcclCommunicator> make_communicator(int device);
  void adopt(std::shared_ptr<NcclCommunicator> communicator);
  /// What a send and a receive begin with.
  void prepare_message(const at::Tensor& tensor, const char* op);
  /// Learns of failures that the watchdog found, and releases tensors that are no longer used.
  /// Throws: the group's failure.
  void catch_up(const char* op);
  void progress() noexcept;
  std::unique_ptr<Operation> enqueue(NcclTask task, const char* op);
  /// Blocks: until everything called so far is enqueued.
  void drain(const Deadline& deadline, const char* op);
  /// Divides the communicator, where there is one. Collective. Blocks.
  void divide_communicator(NcclBackend* child, int color, int key);
  /// Runs `body`; what it throws as `OperationFailure` fails the group, as an operation's would.
  template <typename Body>
  void guarded(const char* op, const Body& body);

  GroupContext& group_;
  std::shared_ptr<ProcessGroup> control_;
  NcclServices services_;
  bool checks_calls_;
  NcclCommunicator::PeerWatch peer_watch_;  // null where the control group has none
  std::shared_ptr<NcclCommunicator> communicator_;
  std::shared_ptr<WindowRegistry> windows_;  // null while there is no communicator
  std::shared_ptr<LaunchQueue> queue_;
  bool is_coalescing_ = false;
  bool has_told_ = false;               // that there is no symmetric memory
  std::shared_ptr<NcclLaunch> batch_;   // coalesced calls, from the first of them on
  std::unique_ptr<Watchdog> watchdog_;  // ends before what it looks at
};

/// A group over NCCL; the arguments are those of `NcclBackend`.
[[nodiscard]] std::shared_ptr<ProcessGroup> make_nccl_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    std::shared_ptr<ProcessGroup> control, const NcclServices& services, bool check_calls);

}  // namespace lockstep
