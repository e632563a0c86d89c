// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/collectives.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/nccl/dtypes.h"

namespace lockstep {
namespace {

using native::NcclReduction;
using native::NcclType;

constexpr NcclType kBytes = NcclType::Uint8;

bool is_equally_large(const std::vector<at::Tensor>& pieces) {
  return std::all_of(pieces.begin(), pieces.end(), [&](const at::Tensor& piece) {
    return piece.numel() == pieces.front().numel();
  });
}

bool lie_in_a_row(const std::vector<at::Tensor>& pieces) {
  const auto* place = bytes_of(pieces.front()).data();
  for (const at::Tensor& piece : pieces) {
    // Two allocations may touch; one tensor cannot span them.
    if (bytes_of(piece).data() != place || !piece.is_alias_of(pieces.front())) return false;
    place += piece.nbytes();
  }
  return true;
}

void copy(const NcclCallContext& context, const at::Tensor& target, const at::Tensor& source) {
  const auto from = bytes_of(source);
  const auto to = bytes_of(target);
  if (from.empty() || from.data() == to.data()) return;
  context.device.copy(to.data(), from.data(), from.size(), context.stream);
}

/// The pieces as one tensor: as they lie, or in memory of its own.
at::Tensor joined(const std::vector<at::Tensor>& pieces) {
  if (lie_in_a_row(pieces)) {
    return pieces.front().as_strided(
        {pieces.front().numel() * static_cast<std::int64_t>(pieces.size())}, {1});
  }
  return at::empty({static_cast<std::int64_t>(pieces.size()), pieces.front().numel()},
                   pieces.front().options());
}

/// Runs `body(op)` with the reduction, which exists only for these calls where it has a factor.
template <typename Body>
void with_reduction(const NcclCallContext& context, const NcclReductionPlan& plan,
                    const Body& body) {
  if (!plan.factor) return body(plan.op);
  NcclReduction op{};
  context.check(
      context.nccl.reduction_create(&op, plan.factor->data(), plan.type, context.communicator),
      "ncclRedOpCreatePreMulSum");
  try {
    body(op);
  } catch (...) {
    context.nccl.reduction_destroy(op, context.communicator);
    throw;
  }
  context.check(context.nccl.reduction_destroy(op, context.communicator), "ncclRedOpDestroy");
}

std::size_t count_of(const at::Tensor& tensor, const NcclReductionPlan& plan) {
  return static_cast<std::size_t>(tensor.numel()) * plan.per_element;
}

NcclCall reduction(const Collective& call, const NcclReductionPlan& plan) {
  const auto data = bytes_of(call.inputs.front()).data();
  const std::size_t count = count_of(call.inputs.front(), plan);
  const bool is_all = call.op == CollectiveOp::AllReduce;
  return [=, root = call.root](const NcclCallContext& c) {
    with_reduction(c, plan, [&](NcclReduction op) {
      if (is_all) {
        c.check(c.nccl.all_reduce(data, data, count, plan.type, op, c.communicator, c.stream),
                "ncclAllReduce");
      } else {
        c.check(c.nccl.reduce(data, data, count, plan.type, op, root, c.communicator, c.stream),
                "ncclReduce");
      }
    });
  };
}

void add_reduce_scatter(NcclTask& task, const Collective& call, const NcclReductionPlan& plan) {
  const at::Tensor output = call.outputs.front();
  if (!is_equally_large(call.inputs)) {
    task.calls.emplace_back([plan, output, inputs = call.inputs](const NcclCallContext& c) {
      with_reduction(c, plan, [&](NcclReduction op) {
        for (std::size_t root = 0; root < inputs.size(); ++root) {
          if (inputs[root].numel() == 0) continue;
          c.check(c.nccl.reduce(bytes_of(inputs[root]).data(), bytes_of(output).data(),
                                count_of(inputs[root], plan), plan.type, op, static_cast<int>(root),
                                c.communicator, c.stream),
                  "ncclReduce");
        }
      });
    });
    return;
  }
  const at::Tensor all = joined(call.inputs);
  task.tensors.push_back(all);
  if (!lie_in_a_row(call.inputs)) {
    task.preparations.emplace_back([all, inputs = call.inputs](const NcclCallContext& c) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        copy(c, all.select(0, static_cast<std::int64_t>(i)), inputs[i]);
      }
    });
  }
  task.calls.emplace_back([plan, output, all](const NcclCallContext& c) {
    with_reduction(c, plan, [&](NcclReduction op) {
      c.check(
          c.nccl.reduce_scatter(bytes_of(all).data(), bytes_of(output).data(),
                                count_of(output, plan), plan.type, op, c.communicator, c.stream),
          "ncclReduceScatter");
    });
  });
}

void add_broadcast(NcclTask& task, const at::Tensor& input, const at::Tensor& output, int root) {
  if (output.numel() == 0) return;
  task.calls.emplace_back([=](const NcclCallContext& c) {
    c.check(c.nccl.broadcast(bytes_of(input).data(), bytes_of(output).data(), output.nbytes(),
                             kBytes, root, c.communicator, c.stream),
            "ncclBroadcast");
  });
}

void add_all_gather(NcclTask& task, const Collective& call, int rank) {
  const at::Tensor input = call.inputs.front();
  if (!is_equally_large(call.outputs)) {
    for (std::size_t root = 0; root < call.outputs.size(); ++root) {
      const at::Tensor& output = call.outputs[root];
      const bool is_own = static_cast<int>(root) == rank;
      add_broadcast(task, is_own ? input : output, output, static_cast<int>(root));
    }
    return;
  }
  const at::Tensor all = joined(call.outputs);
  task.tensors.push_back(all);
  task.calls.emplace_back([input, all](const NcclCallContext& c) {
    c.check(c.nccl.all_gather(bytes_of(input).data(), bytes_of(all).data(), input.nbytes(), kBytes,
                              c.communicator, c.stream),
            "ncclAllGather");
  });
  if (lie_in_a_row(call.outputs)) return;
  task.completions.emplace_back([all, outputs = call.outputs](const NcclCallContext& c) {
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      copy(c, outputs[i], all.select(0, static_cast<std::int64_t>(i)));
    }
  });
}

void add_send(NcclTask& task, const at::Tensor& tensor, int to) {
  if (tensor.numel() == 0) return;
  task.calls.emplace_back([=](const NcclCallContext& c) {
    c.check(
        c.nccl.send(bytes_of(tensor).data(), tensor.nbytes(), kBytes, to, c.communicator, c.stream),
        "ncclSend");
  });
}

void add_receive(NcclTask& task, const at::Tensor& tensor, int from) {
  if (tensor.numel() == 0) return;
  task.calls.emplace_back([=](const NcclCallContext& c) {
    c.check(c.nccl.receive(bytes_of(tensor).data(), tensor.nbytes(), kBytes, from, c.communicator,
                           c.stream),
            "ncclRecv");
  });
}

/// Gather, Scatter, AllToAll: what this rank sends to each other, and expects from each.
void add_messages(NcclTask& task, const Collective& call, int rank, int world_size) {
  const bool is_root = rank == call.root;
  const bool is_gather = call.op == CollectiveOp::Gather;
  const bool is_scatter = call.op == CollectiveOp::Scatter;
  for (int peer = 0; peer < world_size; ++peer) {
    const auto i = static_cast<std::size_t>(peer);
    const at::Tensor* sent = nullptr;
    const at::Tensor* received = nullptr;
    if (!is_gather && (!is_scatter || is_root)) sent = &call.inputs[i];
    if (is_gather && peer == call.root) sent = &call.inputs.front();
    if (!is_scatter && (!is_gather || is_root)) received = &call.outputs[i];
    if (is_scatter && peer == call.root) received = &call.outputs.front();
    if (peer == rank) {
      if (sent == nullptr || received == nullptr) continue;
      task.preparations.emplace_back([from = *sent, to = *received](const NcclCallContext& c) {
        if (from.nbytes() != to.nbytes()) {
          throw OperationFailure{OperationFailure::Kind::Backend,
                                 std::to_string(from.nbytes()) +
                                     " bytes go from this rank to itself, which expects " +
                                     std::to_string(to.nbytes()),
                                 "what a rank sends must be what the other expects from it"};
        }
        copy(c, to, from);
      });
      continue;
    }
    if (sent != nullptr) add_send(task, *sent, peer);
    if (received != nullptr) add_receive(task, *received, peer);
  }
}

}  // namespace

NcclTask make_nccl_task(Collective call, int rank, int world_size, int capability) {
  NcclTask task;
  task.tensors = call.inputs;
  task.tensors.insert(task.tensors.end(), call.outputs.begin(), call.outputs.end());
  const bool is_empty = std::all_of(task.tensors.begin(), task.tensors.end(),
                                    [](const at::Tensor& tensor) { return tensor.numel() == 0; });
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      task.calls.push_back(reduction(call, plan_nccl_reduction(call, capability)));
      break;
    case CollectiveOp::ReduceScatter:
      add_reduce_scatter(task, call, plan_nccl_reduction(call, capability));
      break;
    case CollectiveOp::Broadcast:
      add_broadcast(task, call.inputs.front(), call.outputs.front(), call.root);
      break;
    case CollectiveOp::AllGather:
      add_all_gather(task, call, rank);
      break;
    default:
      add_messages(task, call, rank, world_size);
  }
  // After the checks above: what is refused does not depend on sizes.
  if (is_empty) task.preparations.clear(), task.calls.clear(), task.completions.clear();
  return task;
}

NcclTask make_nccl_send(at::Tensor tensor, int to) {
  NcclTask task;
  add_send(task, tensor, to);
  task.tensors.push_back(std::move(tensor));
  return task;
}

NcclTask make_nccl_receive(at::Tensor tensor, int from) {
  NcclTask task;
  add_receive(task, tensor, from);
  task.tensors.push_back(std::move(tensor));
  return task;
}

}  // namespace lockstep
