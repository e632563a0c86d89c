// SPDX-License-Identifier: BSD-3-Clause
#include "comm/single/backend.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <cstring>
#include <new>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/collective/reduce_kernels.h"
#include "comm/group/group_context.h"
#include "comm/group/host_memory.h"

namespace lockstep {
namespace {

class CompletedOperation : public Operation {
 public:
  bool try_start(bool) override { return true; }
  bool try_finish() override { return true; }
  void sleep(std::chrono::nanoseconds) override {}
  void check_peers() override {}
  [[nodiscard]] std::string describe_missing() const override { return "nobody"; }
};

/// An all_to_all with sizes of the program's own: what this rank sends itself must be what it
/// expects.
class CheckedDataMovement final : public CompletedOperation {
 public:
  explicit CheckedDataMovement(Collective call) : call_(std::move(call)) {}
  bool try_finish() override {
    const Streams streams = streams_of(call_, 0, 1);
    const auto lengths = lengths_of(streams);
    check_lengths({lengths});
    streams.copy_own(0);
    return true;
  }

 private:
  Collective call_;
};

/// On the current stream, as every other operation there.
void copy_on_device(const Collective& call) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // autograd has heard of the call
  const at::Tensor& input = call.inputs.front();
  const at::Tensor& output = call.outputs.front();
  if (!output.is_same(input)) output.view({-1}).copy_(input.view({-1}));
  if (call.reduce_op.kind() == ReduceOp::Kind::PreMulSum) output.mul_(call.reduce_op.factor());
}

class SingleBackend final : public CommBackend {
 public:
  explicit SingleBackend(GroupContext& group) : group_(group) {}

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  // There is no other rank: `ProcessGroup` refuses messages to oneself.
  std::unique_ptr<Operation> make_send(at::Tensor, int, int) override {
    return std::make_unique<CompletedOperation>();
  }
  std::unique_ptr<Operation> make_receive(at::Tensor, int, int) override {
    return std::make_unique<CompletedOperation>();
  }
  std::unique_ptr<CommBackend> make_group(GroupContext& part, const std::vector<int>&) override {
    return make_single_backend(part);
  }
  Memory allocate(c10::Device device, std::size_t bytes) override;
  [[nodiscard]] bool supports(c10::DeviceType) const override { return true; }

  GroupContext& group_;
};

std::unique_ptr<Operation> SingleBackend::make_operation(Collective call) {
  if (call.op == CollectiveOp::Barrier) return std::make_unique<CompletedOperation>();
  if (call.has_own_sizes && call.device().is_cpu()) {
    return std::make_unique<CheckedDataMovement>(std::move(call));
  }
  if (!call.device().is_cpu()) {
    copy_on_device(call);
  } else if (is_reduction(call.op)) {
    // This is not always a copy: a factor, or rounding, applies to one rank's values too.
    const void* input = call.inputs.front().const_data_ptr();
    void* output = call.outputs.front().data_ptr();
    reduce_ranks(call.dtype(), call.reduce_op, std::span(&input, 1), std::span(&output, 1),
                 static_cast<std::size_t>(call.tensor().numel()));
  } else {
    streams_of(call, 0, 1).copy_own(0);
  }
  return std::make_unique<CompletedOperation>();
}

CommBackend::Memory SingleBackend::allocate(c10::Device, std::size_t bytes) {
  auto owner = allocate_zeroed(bytes);
  if (!owner) throw CommError(group_.context_for("allocate"), no_memory_text(bytes, false));
  void* data = owner.get();
  return {data, std::move(owner)};
}

}  // namespace

std::unique_ptr<CommBackend> make_single_backend(GroupContext& group) {
  return std::make_unique<SingleBackend>(group);
}

}  // namespace lockstep
