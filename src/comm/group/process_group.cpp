// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/process_group.h>

#include <algorithm>
#include <set>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/group/argument_checks.h"
#include "comm/group/group_core.h"
#include "comm/group/split.h"

namespace lockstep {
namespace {

/// The handle of a call that was started, entered into the `coalesced` under way.
Work track(GroupCore& group, GroupCore::PendingCall call) {
  Work work(std::move(call.group), call.sequence);
  if (group.coalesced() != nullptr) group.coalesced()->push_back(work);
  return work;
}

Work start_call(GroupCore& group, Collective call, const at::Tensor& whole = {}) {
  return track(group, group.start(std::move(call), whole));
}

std::shared_ptr<ProcessGroup> group_of(std::shared_ptr<GroupCore> core) {
  return core ? std::make_shared<ProcessGroup>(std::move(core)) : nullptr;
}

}  // namespace

ProcessGroup::ProcessGroup(std::shared_ptr<GroupCore> core) : core_(std::move(core)) {}

ProcessGroup::~ProcessGroup() = default;

int ProcessGroup::rank() const noexcept {
  return core_->rank();
}

int ProcessGroup::size() const noexcept {
  return core_->size();
}

int ProcessGroup::local_rank() const noexcept {
  return core_->environment().local_rank;
}

int ProcessGroup::local_size() const noexcept {
  return core_->environment().local_size;
}

Backend ProcessGroup::backend() const noexcept {
  return core_->kind();
}

std::string ProcessGroup::describe_link() const {
  return core_->backend().describe_link();
}

std::chrono::milliseconds ProcessGroup::timeout() const noexcept {
  return core_->timeout();
}

Work ProcessGroup::all_reduce(const at::Tensor& tensor, ReduceOp op) {
  const auto visit = core_->begin("all_reduce");
  check_tensor(tensor, "all_reduce", "the tensor");
  check_reduction(tensor.scalar_type(), op, "all_reduce");
  return start_call(
      *core_,
      {.op = CollectiveOp::AllReduce, .reduce_op = op, .inputs = {tensor}, .outputs = {tensor}});
}

bool ProcessGroup::can_reduce_indexed(const at::Tensor& buffer) {
  return buffer.device().is_cpu() && core_->group_for(c10::kCPU).backend().shares_memory(
                                         buffer.const_data_ptr(), buffer.nbytes());
}

void ProcessGroup::mark_indexed(const at::Tensor& buffer) {
  const auto visit = core_->begin("mark_indexed");
  TORCH_CHECK(can_reduce_indexed(buffer),
              "mark_indexed: the tensor is none of allocate on the CPU, of a group whose ranks are "
              "all on one host, or each alone on its host");
  core_->group_for(c10::kCPU).backend().mark_indexed(buffer.const_data_ptr());
}

Work ProcessGroup::all_reduce(const IndexedBlocks& blocks, ReduceOp op) {
  const auto visit = core_->begin("all_reduce");
  const auto& [buffer, displacements, counts] = blocks;
  check_tensor(buffer, "all_reduce", "the buffer of the blocks");
  check_tensor(displacements, "all_reduce", "the tensor of displacements");
  check_reduction(buffer.scalar_type(), op, "all_reduce");
  TORCH_CHECK(can_reduce_indexed(buffer) && can_reduce_indexed(displacements),
              "all_reduce: indexed blocks and their displacements must lie in tensors of allocate "
              "on the CPU, of a group whose ranks are all on one host, or each alone on its host");
  TORCH_CHECK(displacements.scalar_type() == at::kLong &&
                  displacements.numel() == static_cast<std::int64_t>(counts.size()),
              "all_reduce: ", counts.size(),
              " blocks need as many displacements of dtype Long; there are ", displacements.numel(),
              " of dtype ", displacements.scalar_type());
  const auto* begins = displacements.const_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    TORCH_CHECK(counts[i] >= 0 && begins[i] >= 0 && begins[i] <= buffer.numel() &&
                    counts[i] <= buffer.numel() - begins[i],
                "all_reduce: block ", i, ", ", counts[i], " elements from ", begins[i],
                " on, does not lie in the buffer, which has ", buffer.numel(), " elements");
  }
  return start_call(*core_, {.op = CollectiveOp::AllReduce,
                             .reduce_op = op,
                             .inputs = {buffer},
                             .outputs = {buffer},
                             .displacements = displacements,
                             .block_counts = counts});
}

Work ProcessGroup::reduce(const at::Tensor& tensor, int root, ReduceOp op) {
  const auto visit = core_->begin("reduce");
  check_tensor(tensor, "reduce", "the tensor");
  check_root(root, size(), "reduce");
  check_reduction(tensor.scalar_type(), op, "reduce");
  return start_call(*core_, {.op = CollectiveOp::Reduce,
                             .reduce_op = op,
                             .root = root,
                             .inputs = {tensor},
                             .outputs = {tensor}});
}

Work ProcessGroup::reduce_scatter(const at::Tensor& output, const at::Tensor& input, ReduceOp op) {
  const auto visit = core_->begin("reduce_scatter");
  check_contiguous(output, "reduce_scatter", "the output");
  check_contiguous(input, "reduce_scatter", "the input");
  TORCH_CHECK(input.numel() == output.numel() * size(), "reduce_scatter: the input has ",
              input.numel(), " elements; ", size(), " ranks with an output of ", output.numel(),
              " elements each need ", output.numel() * size());
  return reduce_scatter(output, split_evenly(input, size()), op);
}

Work ProcessGroup::reduce_scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                  ReduceOp op) {
  const auto visit = core_->begin("reduce_scatter");
  check_contiguous(output, "reduce_scatter", "the output");
  check_count(inputs, size(), "reduce_scatter", "inputs");
  check_contiguous(inputs, "reduce_scatter", "an input");
  check_dtype(output.scalar_type(), inputs, "reduce_scatter");
  check_reduction(output.scalar_type(), op, "reduce_scatter");
  const auto own = static_cast<std::size_t>(rank());
  check_same_size({output}, inputs[own].numel(), "reduce_scatter", "the output");
  check_apart_but(own, inputs, output, "reduce_scatter");
  return start_call(
      *core_,
      {.op = CollectiveOp::ReduceScatter, .reduce_op = op, .inputs = inputs, .outputs = {output}});
}

Work ProcessGroup::broadcast(const at::Tensor& tensor, int root) {
  const auto visit = core_->begin("broadcast");
  check_tensor(tensor, "broadcast", "the tensor");
  check_root(root, size(), "broadcast");
  return start_call(
      *core_,
      {.op = CollectiveOp::Broadcast, .root = root, .inputs = {tensor}, .outputs = {tensor}});
}

Work ProcessGroup::all_gather(const at::Tensor& output, const at::Tensor& input) {
  const auto visit = core_->begin("all_gather");
  check_contiguous(output, "all_gather", "the output");
  check_contiguous(input, "all_gather", "the input");
  TORCH_CHECK(output.numel() == input.numel() * size(), "all_gather: the output has ",
              output.numel(), " elements; ", size(), " ranks with ", input.numel(),
              " elements each need ", input.numel() * size());
  check_dtype(input.scalar_type(), {output}, "all_gather");
  auto outputs = split_evenly(output, size());
  check_apart_but(static_cast<std::size_t>(rank()), outputs, input, "all_gather");
  return start_call(
      *core_, {.op = CollectiveOp::AllGather, .inputs = {input}, .outputs = std::move(outputs)},
      output);
}

Work ProcessGroup::all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input) {
  const auto visit = core_->begin("all_gather");
  check_contiguous(input, "all_gather", "the input");
  check_count(outputs, size(), "all_gather", "outputs");
  check_contiguous(outputs, "all_gather", "an output");
  check_dtype(input.scalar_type(), outputs, "all_gather");
  const auto own = static_cast<std::size_t>(rank());
  check_same_size({input}, outputs[own].numel(), "all_gather", "the input");
  check_apart_but(own, outputs, input, "all_gather");
  return start_call(*core_, {.op = CollectiveOp::AllGather, .inputs = {input}, .outputs = outputs});
}

Work ProcessGroup::gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input,
                          int root) {
  const auto visit = core_->begin("gather");
  check_contiguous(input, "gather", "the input");
  check_root(root, size(), "gather");
  if (rank() == root) {
    check_count(outputs, size(), "gather", "outputs");
    check_contiguous(outputs, "gather", "an output");
    check_dtype(input.scalar_type(), outputs, "gather");
    check_same_size(outputs, input.numel(), "gather", "an output");
    check_apart_but(static_cast<std::size_t>(rank()), outputs, input, "gather");
  } else {
    TORCH_CHECK(outputs.empty(), "gather: ", outputs.size(), " outputs on rank ", rank(),
                "; only the root, rank ", root, ", passes any");
  }
  return start_call(
      *core_, {.op = CollectiveOp::Gather, .root = root, .inputs = {input}, .outputs = outputs});
}

Work ProcessGroup::scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                           int root) {
  const auto visit = core_->begin("scatter");
  check_contiguous(output, "scatter", "the output");
  check_root(root, size(), "scatter");
  if (rank() == root) {
    check_count(inputs, size(), "scatter", "inputs");
    check_contiguous(inputs, "scatter", "an input");
    check_dtype(output.scalar_type(), inputs, "scatter");
    check_same_size(inputs, output.numel(), "scatter", "an input");
    check_apart_but(static_cast<std::size_t>(rank()), inputs, output, "scatter");
  } else {
    TORCH_CHECK(inputs.empty(), "scatter: ", inputs.size(), " inputs on rank ", rank(),
                "; only the root, rank ", root, ", passes any");
  }
  return start_call(
      *core_, {.op = CollectiveOp::Scatter, .root = root, .inputs = inputs, .outputs = {output}});
}

Work ProcessGroup::all_to_all(const at::Tensor& output, const at::Tensor& input) {
  const auto visit = core_->begin("all_to_all");
  check_contiguous(output, "all_to_all", "the output");
  check_contiguous(input, "all_to_all", "the input");
  check_dtype(input.scalar_type(), {output}, "all_to_all");
  check_same_size({output}, input.numel(), "all_to_all", "the output");
  TORCH_CHECK(input.numel() % size() == 0, "all_to_all: the input has ", input.numel(),
              " elements; it must be a multiple of the ", size(), " ranks, or have splits");
  check_apart({output}, {input}, "all_to_all");
  return start_call(*core_,
                    {.op = CollectiveOp::AllToAll,
                     .inputs = split_evenly(input, size()),
                     .outputs = split_evenly(output, size())},
                    output);
}

Work ProcessGroup::all_to_all(const at::Tensor& output, const at::Tensor& input,
                              at::IntArrayRef output_splits, at::IntArrayRef input_splits) {
  const auto visit = core_->begin("all_to_all");
  check_contiguous(output, "all_to_all", "the output");
  check_contiguous(input, "all_to_all", "the input");
  auto outputs = split_rows(output, output_splits, "the output");
  auto inputs = split_rows(input, input_splits, "the input");
  check_count(outputs, size(), "all_to_all", "output splits");
  check_count(inputs, size(), "all_to_all", "input splits");
  check_dtype(input.scalar_type(), {output}, "all_to_all");
  TORCH_CHECK(row_elements(output) == row_elements(input), "all_to_all: a row of the output has ",
              row_elements(output), " elements, one of the input ", row_elements(input));
  check_apart({output}, {input}, "all_to_all");
  return start_call(*core_,
                    {.op = CollectiveOp::AllToAll,
                     .inputs = std::move(inputs),
                     .outputs = std::move(outputs),
                     .has_own_sizes = true},
                    output);
}

Work ProcessGroup::all_to_all(const std::vector<at::Tensor>& outputs,
                              const std::vector<at::Tensor>& inputs) {
  const auto visit = core_->begin("all_to_all");
  check_count(outputs, size(), "all_to_all", "outputs");
  check_count(inputs, size(), "all_to_all", "inputs");
  check_contiguous(outputs, "all_to_all", "an output");
  check_contiguous(inputs, "all_to_all", "an input");
  check_dtype(inputs.front().scalar_type(), inputs, "all_to_all");
  check_dtype(inputs.front().scalar_type(), outputs, "all_to_all");
  check_apart(outputs, inputs, "all_to_all");
  return start_call(
      *core_,
      {.op = CollectiveOp::AllToAll, .inputs = inputs, .outputs = outputs, .has_own_sizes = true});
}

void ProcessGroup::barrier() {
  const auto visit = core_->begin("barrier");
  barrier_async().wait();
}

Work ProcessGroup::barrier_async() {
  const auto visit = core_->begin("barrier_async");
  return start_call(*core_, Collective{});
}

Work ProcessGroup::send(const at::Tensor& tensor, int to, int tag) {
  const auto visit = core_->begin("send");
  check_message(tensor, to, tag, {rank(), size(), "send"});
  return track(*core_, core_->send(tensor, to, tag));
}

Work ProcessGroup::recv(const at::Tensor& tensor, int from, int tag) {
  const auto visit = core_->begin("recv");
  check_message(tensor, from, tag, {rank(), size(), "recv"});
  return track(*core_, core_->receive(tensor, from, tag));
}

Work ProcessGroup::coalesced(const std::function<void()>& calls) {
  const auto visit = core_->begin("coalesced");
  TORCH_CHECK(core_->coalesced() == nullptr, "coalesced: called inside of coalesced");
  std::vector<Work> parts;
  core_->begin_coalescing(parts);
  try {
    calls();
  } catch (...) {
    core_->end_coalescing();
    throw;
  }
  core_->end_coalescing();
  return Work(std::move(parts));
}

CallScope ProcessGroup::with(CallOptions options) {
  return core_->with(std::move(options));
}

std::shared_ptr<ProcessGroup> ProcessGroup::split(int color, int key) {
  const auto visit = core_->begin("split");
  return group_of(divide_group(*core_, {color < 0 ? -1 : color, key, 0, "split"}));
}

std::shared_ptr<ProcessGroup> ProcessGroup::new_group(const std::vector<int>& ranks) {
  const auto visit = core_->begin("new_group");
  return group_of(divide_group(*core_, division_of(ranks, rank(), size())));
}

at::Tensor ProcessGroup::allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return core_->allocate(sizes, options);
}

void ProcessGroup::close() {
  core_->close();
}

bool ProcessGroup::is_closed() const noexcept {
  return core_->is_closed();
}

int ProcessGroup::next_number() noexcept {
  return core_->next_number();
}

void ProcessGroup::progress() noexcept {
  core_->try_progress();
}

}  // namespace lockstep
