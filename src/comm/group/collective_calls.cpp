// SPDX-License-Identifier: BSD-3-Clause
// What a process group checks of a call before a backend sees it.
#include <ATen/core/LegacyTypeDispatch.h>
#include <lockstep/comm/process_group.h>

#include <numeric>
#include <utility>

#include "comm/collective/collective.h"
#include "comm/collective/message.h"
#include "comm/collective/operation.h"
#include "comm/collective/operation_queue.h"
#include "comm/collective/reduce_kernels.h"
#include "comm/group/calling_thread.h"
#include "comm/group/written_tensors.h"

namespace lockstep {
namespace {

void check_tensor(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK(tensor.defined(), op, ": ", name, " is an undefined tensor");
  TORCH_CHECK(tensor.device().is_cpu() || tensor.device().is_cuda(), op, ": ", name, " is on ",
              tensor.device(), "; process groups take CPU and CUDA tensors");
  TORCH_CHECK(tensor.layout() == at::kStrided, op, ": ", name, " has layout ", tensor.layout(),
              "; it must be dense");
  TORCH_CHECK(tensor.is_non_overlapping_and_dense(), op, ": ", name, " of sizes ", tensor.sizes(),
              " has strides ", tensor.strides(), "; it must fill its memory without gaps");
  // Their memory holds other values than they show.
  TORCH_CHECK(!tensor.is_conj() && !tensor.is_neg(), op, ": ", name,
              " is a view that shows its memory conjugated or negated; pass what resolve_conj() "
              "and resolve_neg() give");
}

// Where ranks' tensors may have different strides, memory order says nothing.
void check_contiguous(const at::Tensor& tensor, const char* op, const char* name) {
  check_tensor(tensor, op, name);
  TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " of sizes ", tensor.sizes(), " has strides ",
              tensor.strides(), "; it must be contiguous");
}

void check_contiguous(const std::vector<at::Tensor>& tensors, const char* op, const char* name) {
  for (const at::Tensor& tensor : tensors) check_contiguous(tensor, op, name);
}

void check_dtype(at::ScalarType dtype, const std::vector<at::Tensor>& tensors, const char* op) {
  for (const at::Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.scalar_type() == dtype, op, ": one tensor is of ", dtype, ", another of ",
                tensor.scalar_type(), "; all must have one dtype");
  }
}

void check_reduction(at::ScalarType dtype, ReduceOp reduce_op, const char* op) {
  const auto kind = reduce_op.kind();
  const bool is_mean = kind == ReduceOp::Kind::Avg || kind == ReduceOp::Kind::PreMulSum;
  TORCH_CHECK(can_reduce(dtype, reduce_op), op, ": ", to_string(reduce_op), " of ", dtype,
              " tensors is not supported",
              is_mean ? "; it needs a floating-point or complex dtype" : "");
}

void check_same_size(const std::vector<at::Tensor>& pieces, std::int64_t elements, const char* op,
                     const char* name) {
  for (const at::Tensor& piece : pieces) {
    TORCH_CHECK(piece.numel() == elements, op, ": ", name, " has ", piece.numel(),
                " elements; it must have ", elements);
  }
}

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto* start_a = static_cast<const std::byte*>(a.const_data_ptr());
  const auto* start_b = static_cast<const std::byte*>(b.const_data_ptr());
  return a.nbytes() != 0 && b.nbytes() != 0 && start_a < start_b + b.nbytes() &&
         start_b < start_a + a.nbytes();
}

// What is still to be sent must not be overwritten by what has come. A piece may be where it stays.
void check_apart(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                 const char* op) {
  for (const at::Tensor& output : outputs) {
    for (const at::Tensor& input : inputs) {
      TORCH_CHECK(!overlap(output, input), op,
                  ": an output overlaps an input; they must lie apart");
    }
  }
}

void check_apart_but(std::size_t own, const std::vector<at::Tensor>& pieces,
                     const at::Tensor& tensor, const char* op) {
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const bool is_in_its_place = i == own && pieces[i].const_data_ptr() == tensor.const_data_ptr();
    TORCH_CHECK(is_in_its_place || !overlap(pieces[i], tensor), op,
                ": this rank's tensor overlaps piece ", i, "; it may only be piece ", own,
                " itself");
  }
}

std::vector<at::Tensor> split_evenly(const at::Tensor& tensor, int parts) {
  // Nobody sees the pieces, and noting for autograd what they are views of takes longer than a
  // small call itself.
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  return tensor.view({parts, tensor.numel() / parts}).unbind(0);
}

std::vector<at::Tensor> split_rows(const at::Tensor& tensor, at::IntArrayRef splits,
                                   const char* name) {
  TORCH_CHECK(tensor.dim() > 0, "all_to_all: ", name, " has no dimension to split");
  std::int64_t sum = 0;
  for (const auto rows : splits) {
    TORCH_CHECK(rows >= 0, "all_to_all: the splits of ", name, " are ", splits,
                "; none may be negative");
    sum += rows;
  }
  TORCH_CHECK(sum == tensor.size(0), "all_to_all: the splits of ", name, " are ", splits,
              ", together ", sum, "; it has ", tensor.size(0), " rows");
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // as above
  return tensor.split_with_sizes(splits, 0);
}

/// The same for messages that must not overtake each other, and for no others.
std::uint64_t lane_of(int peer, int tag, bool is_sent) {
  const auto line = 2 * static_cast<std::uint64_t>(peer) + (is_sent ? 1 : 0);
  return line << 32 | static_cast<std::uint32_t>(tag);
}

std::int64_t row_elements(const at::Tensor& tensor) {
  return std::accumulate(tensor.sizes().begin() + 1, tensor.sizes().end(), std::int64_t{1},
                         std::multiplies<>());
}

}  // namespace

void ProcessGroup::check_root(int root, const char* op) const {
  TORCH_CHECK(root >= 0 && root < size(), op, ": root is ", root, "; this group has ranks 0 to ",
              size() - 1);
}

void ProcessGroup::check_count(const std::vector<at::Tensor>& tensors, const char* op,
                               const char* name) const {
  TORCH_CHECK(tensors.size() == static_cast<std::size_t>(size()), op, ": ", tensors.size(), " ",
              name, " for ", size(), " ranks");
}

void ProcessGroup::check_message(const at::Tensor& tensor, int peer, int tag,
                                 const char* op) const {
  check_contiguous(tensor, op, "the tensor");
  TORCH_CHECK(peer >= 0 && peer < size(), op, ": the other rank is ", peer,
              "; this group has ranks 0 to ", size() - 1);
  TORCH_CHECK(peer != rank(), op, ": rank ", peer, " is this rank itself");
  TORCH_CHECK(tag >= 0 && tag <= kMaxTag, op, ": the tag is ", tag, "; it must be 0 to ", kMaxTag);
}

Work ProcessGroup::send(const at::Tensor& tensor, int to, int tag) {
  const auto visit = begin("send");
  check_message(tensor, to, tag, "send");
  ProcessGroup& carrier = carrier_of(tensor.device().type());
  return keep(carrier.start_send(tensor, to, tag, call_timeout()));
}

Work ProcessGroup::recv(const at::Tensor& tensor, int from, int tag) {
  const auto visit = begin("recv");
  check_message(tensor, from, tag, "recv");
  note_written(tensor, "recv");
  ProcessGroup& carrier = carrier_of(tensor.device().type());
  return keep(carrier.start_receive(tensor, from, tag, call_timeout()));
}

Work ProcessGroup::start_send(const at::Tensor& tensor, int to, int tag, Timeout timeout) {
  return start_message(operation_for_send(tensor, to, tag), "send", timeout,
                       lane_of(to, tag, true));
}

Work ProcessGroup::start_receive(const at::Tensor& tensor, int from, int tag, Timeout timeout) {
  return start_message(operation_for_receive(tensor, from, tag), "recv", timeout,
                       lane_of(from, tag, false));
}

Work ProcessGroup::send_own(ProcessGroup& other, const at::Tensor& tensor, int to) {
  other.check_open("send");
  return other.start_send(tensor, to, kOwnTag, other.timeout());
}

Work ProcessGroup::recv_own(ProcessGroup& other, const at::Tensor& tensor, int from) {
  other.check_open("recv");
  return other.start_receive(tensor, from, kOwnTag, other.timeout());
}

Work ProcessGroup::all_reduce(const at::Tensor& tensor, ReduceOp op) {
  const auto visit = begin("all_reduce");
  check_tensor(tensor, "all_reduce", "the tensor");
  check_reduction(tensor.scalar_type(), op, "all_reduce");
  return start(
      {.op = CollectiveOp::AllReduce, .reduce_op = op, .inputs = {tensor}, .outputs = {tensor}});
}

bool ProcessGroup::can_reduce_pieces(const at::Tensor& memory) {
  return memory.device().is_cpu() &&
         carrier_of(c10::kCPU).shares_memory(memory.const_data_ptr(), memory.nbytes());
}

void ProcessGroup::keep_for_pieces(const at::Tensor& memory) {
  const auto visit = begin("keep_for_pieces");
  TORCH_CHECK(can_reduce_pieces(memory),
              "keep_for_pieces: the tensor is none of allocate on the CPU, of a group whose ranks "
              "share memory");
  carrier_of(c10::kCPU).keep_for_pieces(memory.const_data_ptr());
}

Work ProcessGroup::all_reduce(const Pieces& pieces, ReduceOp op) {
  const auto visit = begin("all_reduce");
  const auto& [memory, places, counts] = pieces;
  check_tensor(memory, "all_reduce", "the memory of the pieces");
  check_tensor(places, "all_reduce", "the places of the pieces");
  check_reduction(memory.scalar_type(), op, "all_reduce");
  TORCH_CHECK(
      can_reduce_pieces(memory) && can_reduce_pieces(places),
      "all_reduce: pieces and their places must lie in tensors of allocate on the CPU, of a "
      "group whose ranks share memory");
  TORCH_CHECK(places.scalar_type() == at::kLong &&
                  places.numel() == static_cast<std::int64_t>(counts.size()),
              "all_reduce: ", counts.size(),
              " pieces need as many places of dtype Long; there are ", places.numel(), " of dtype ",
              places.scalar_type());
  const auto* begins = places.const_data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    TORCH_CHECK(counts[i] >= 0 && begins[i] >= 0 && begins[i] <= memory.numel() &&
                    counts[i] <= memory.numel() - begins[i],
                "all_reduce: piece ", i, ", ", counts[i], " elements from ", begins[i],
                " on, does not lie in the memory, which has ", memory.numel(), " elements");
  }
  return start({.op = CollectiveOp::AllReduce,
                .reduce_op = op,
                .inputs = {memory},
                .outputs = {memory},
                .places = places,
                .piece_counts = counts});
}

Work ProcessGroup::reduce(const at::Tensor& tensor, int root, ReduceOp op) {
  const auto visit = begin("reduce");
  check_tensor(tensor, "reduce", "the tensor");
  check_root(root, "reduce");
  check_reduction(tensor.scalar_type(), op, "reduce");
  return start({.op = CollectiveOp::Reduce,
                .reduce_op = op,
                .root = root,
                .inputs = {tensor},
                .outputs = {tensor}});
}

Work ProcessGroup::reduce_scatter(const at::Tensor& output, const at::Tensor& input, ReduceOp op) {
  const auto visit = begin("reduce_scatter");
  check_contiguous(output, "reduce_scatter", "the output");
  check_contiguous(input, "reduce_scatter", "the input");
  TORCH_CHECK(input.numel() == output.numel() * size(), "reduce_scatter: the input has ",
              input.numel(), " elements; ", size(), " ranks with an output of ", output.numel(),
              " elements each need ", output.numel() * size());
  return reduce_scatter(output, split_evenly(input, size()), op);
}

Work ProcessGroup::reduce_scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                  ReduceOp op) {
  const auto visit = begin("reduce_scatter");
  check_contiguous(output, "reduce_scatter", "the output");
  check_count(inputs, "reduce_scatter", "inputs");
  check_contiguous(inputs, "reduce_scatter", "an input");
  check_dtype(output.scalar_type(), inputs, "reduce_scatter");
  check_reduction(output.scalar_type(), op, "reduce_scatter");
  const auto own = static_cast<std::size_t>(rank());
  check_same_size({output}, inputs[own].numel(), "reduce_scatter", "the output");
  check_apart_but(own, inputs, output, "reduce_scatter");
  return start(
      {.op = CollectiveOp::ReduceScatter, .reduce_op = op, .inputs = inputs, .outputs = {output}});
}

Work ProcessGroup::broadcast(const at::Tensor& tensor, int root) {
  const auto visit = begin("broadcast");
  check_tensor(tensor, "broadcast", "the tensor");
  check_root(root, "broadcast");
  return start(
      {.op = CollectiveOp::Broadcast, .root = root, .inputs = {tensor}, .outputs = {tensor}});
}

Work ProcessGroup::all_gather(const at::Tensor& output, const at::Tensor& input) {
  const auto visit = begin("all_gather");
  check_contiguous(output, "all_gather", "the output");
  check_contiguous(input, "all_gather", "the input");
  TORCH_CHECK(output.numel() == input.numel() * size(), "all_gather: the output has ",
              output.numel(), " elements; ", size(), " ranks with ", input.numel(),
              " elements each need ", input.numel() * size());
  check_dtype(input.scalar_type(), {output}, "all_gather");
  auto outputs = split_evenly(output, size());
  check_apart_but(static_cast<std::size_t>(rank()), outputs, input, "all_gather");
  return start({.op = CollectiveOp::AllGather, .inputs = {input}, .outputs = std::move(outputs)},
               output);
}

Work ProcessGroup::all_gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input) {
  const auto visit = begin("all_gather");
  check_contiguous(input, "all_gather", "the input");
  check_count(outputs, "all_gather", "outputs");
  check_contiguous(outputs, "all_gather", "an output");
  check_dtype(input.scalar_type(), outputs, "all_gather");
  const auto own = static_cast<std::size_t>(rank());
  check_same_size({input}, outputs[own].numel(), "all_gather", "the input");
  check_apart_but(own, outputs, input, "all_gather");
  return start({.op = CollectiveOp::AllGather, .inputs = {input}, .outputs = outputs});
}

Work ProcessGroup::gather(const std::vector<at::Tensor>& outputs, const at::Tensor& input,
                          int root) {
  const auto visit = begin("gather");
  check_contiguous(input, "gather", "the input");
  check_root(root, "gather");
  if (rank() == root) {
    check_count(outputs, "gather", "outputs");
    check_contiguous(outputs, "gather", "an output");
    check_dtype(input.scalar_type(), outputs, "gather");
    check_same_size(outputs, input.numel(), "gather", "an output");
    check_apart_but(static_cast<std::size_t>(rank()), outputs, input, "gather");
  } else {
    TORCH_CHECK(outputs.empty(), "gather: ", outputs.size(), " outputs on rank ", rank(),
                "; only the root, rank ", root, ", passes any");
  }
  return start({.op = CollectiveOp::Gather, .root = root, .inputs = {input}, .outputs = outputs});
}

Work ProcessGroup::scatter(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                           int root) {
  const auto visit = begin("scatter");
  check_contiguous(output, "scatter", "the output");
  check_root(root, "scatter");
  if (rank() == root) {
    check_count(inputs, "scatter", "inputs");
    check_contiguous(inputs, "scatter", "an input");
    check_dtype(output.scalar_type(), inputs, "scatter");
    check_same_size(inputs, output.numel(), "scatter", "an input");
    check_apart_but(static_cast<std::size_t>(rank()), inputs, output, "scatter");
  } else {
    TORCH_CHECK(inputs.empty(), "scatter: ", inputs.size(), " inputs on rank ", rank(),
                "; only the root, rank ", root, ", passes any");
  }
  return start({.op = CollectiveOp::Scatter, .root = root, .inputs = inputs, .outputs = {output}});
}

Work ProcessGroup::all_to_all(const at::Tensor& output, const at::Tensor& input) {
  const auto visit = begin("all_to_all");
  check_contiguous(output, "all_to_all", "the output");
  check_contiguous(input, "all_to_all", "the input");
  check_dtype(input.scalar_type(), {output}, "all_to_all");
  check_same_size({output}, input.numel(), "all_to_all", "the output");
  TORCH_CHECK(input.numel() % size() == 0, "all_to_all: the input has ", input.numel(),
              " elements; it must be a multiple of the ", size(), " ranks, or have splits");
  check_apart({output}, {input}, "all_to_all");
  return start({.op = CollectiveOp::AllToAll,
                .inputs = split_evenly(input, size()),
                .outputs = split_evenly(output, size())},
               output);
}

Work ProcessGroup::all_to_all(const at::Tensor& output, const at::Tensor& input,
                              at::IntArrayRef output_splits, at::IntArrayRef input_splits) {
  const auto visit = begin("all_to_all");
  check_contiguous(output, "all_to_all", "the output");
  check_contiguous(input, "all_to_all", "the input");
  auto outputs = split_rows(output, output_splits, "the output");
  auto inputs = split_rows(input, input_splits, "the input");
  check_count(outputs, "all_to_all", "output splits");
  check_count(inputs, "all_to_all", "input splits");
  check_dtype(input.scalar_type(), {output}, "all_to_all");
  TORCH_CHECK(row_elements(output) == row_elements(input), "all_to_all: a row of the output has ",
              row_elements(output), " elements, one of the input ", row_elements(input));
  check_apart({output}, {input}, "all_to_all");
  return start({.op = CollectiveOp::AllToAll,
                .inputs = std::move(inputs),
                .outputs = std::move(outputs),
                .has_own_sizes = true},
               output);
}

Work ProcessGroup::all_to_all(const std::vector<at::Tensor>& outputs,
                              const std::vector<at::Tensor>& inputs) {
  const auto visit = begin("all_to_all");
  check_count(outputs, "all_to_all", "outputs");
  check_count(inputs, "all_to_all", "inputs");
  check_contiguous(outputs, "all_to_all", "an output");
  check_contiguous(inputs, "all_to_all", "an input");
  check_dtype(inputs.front().scalar_type(), inputs, "all_to_all");
  check_dtype(inputs.front().scalar_type(), outputs, "all_to_all");
  check_apart(outputs, inputs, "all_to_all");
  return start(
      {.op = CollectiveOp::AllToAll, .inputs = inputs, .outputs = outputs, .has_own_sizes = true});
}

}  // namespace lockstep
