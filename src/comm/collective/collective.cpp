// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/collective.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "comm/collective/operation.h"
#include "comm/collective/tensor_bytes.h"

namespace lockstep {
namespace {

bool have_same_size(const std::vector<at::Tensor>& tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& tensor) {
    return tensor.numel() == tensors.front().numel();
  });
}

std::uint64_t details_of(const Collective& call) {
  std::uint64_t hash = 0;
  const at::Tensor& tensor = call.tensor();
  if (!tensor.is_contiguous()) {
    for (const auto stride : tensor.strides()) hash = mix(hash, static_cast<std::uint64_t>(stride));
  }
  // Pieces of different sizes, which are the same on every rank.
  const auto& pieces = call.op == CollectiveOp::AllGather ? call.outputs : call.inputs;
  const bool has_pieces =
      call.op == CollectiveOp::AllGather || call.op == CollectiveOp::ReduceScatter;
  if (has_pieces && !have_same_size(pieces)) {
    for (const at::Tensor& piece : pieces) {
      hash = mix(hash, static_cast<std::uint64_t>(piece.numel()));
    }
  }
  if (call.has_own_sizes) hash = mix(hash, 1);
  for (const auto count : call.block_counts) hash = mix(hash, static_cast<std::uint64_t>(count));
  if (call.reduce_op.kind() == ReduceOp::Kind::PreMulSum) {
    hash = mix(hash, std::bit_cast<std::uint64_t>(call.reduce_op.factor()));
  }
  return hash;
}

/// The number of elements that every rank knows: of one piece, or of all where they differ.
std::uint64_t elements_of(const Collective& call) {
  std::int64_t elements = 0;
  switch (call.op) {
    case CollectiveOp::AllGather:
      for (const at::Tensor& piece : call.outputs) elements += piece.numel();
      break;
    case CollectiveOp::ReduceScatter:
      for (const at::Tensor& piece : call.inputs) elements += piece.numel();
      break;
    case CollectiveOp::Scatter:
      elements = call.outputs.front().numel();
      break;
    case CollectiveOp::AllToAll:
      if (!call.has_own_sizes) elements = call.inputs.front().numel();
      break;
    default:
      if (!call.displacements.defined()) elements = call.tensor().numel();
      for (const auto count : call.block_counts) elements += count;
  }
  return static_cast<std::uint64_t>(elements);
}

}  // namespace

Fingerprint fingerprint_of(const Collective& call) {
  Fingerprint print;
  print.op = call.op;
  print.name = call.name;
  if (call.op == CollectiveOp::Barrier) return print;
  print.dtype = static_cast<std::uint8_t>(call.dtype());
  print.reduce_op = static_cast<std::uint8_t>(call.reduce_op.kind());
  print.root = call.root;
  print.elements = elements_of(call);
  print.details = details_of(call);
  return print;
}

void Streams::copy_own(int rank) const {
  const auto source = to(rank);
  const auto target = from(rank);
  const std::size_t bytes = std::min(source.size(), target.size());
  if (bytes != 0 && source.data() != target.data()) {
    std::memmove(target.data(), source.data(), bytes);
  }
}

Streams streams_of(const Collective& call, int rank, int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  const auto root = static_cast<std::size_t>(call.root);
  const bool is_root = rank == call.root;
  Streams streams;
  streams.is_multicast = call.op != CollectiveOp::Scatter && call.op != CollectiveOp::AllToAll;
  streams.sends.resize(streams.is_multicast ? 1 : ranks);
  streams.receives.resize(ranks);
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    if (call.op != CollectiveOp::Broadcast || is_root) streams.sends[i] = bytes_of(call.inputs[i]);
  }
  if (call.op == CollectiveOp::Broadcast || call.op == CollectiveOp::Scatter) {
    streams.receives[root] = bytes_of(call.outputs.front());
    streams.longest = call.outputs.front().nbytes();
    return streams;
  }
  for (std::size_t i = 0; i < call.outputs.size(); ++i) {
    streams.receives[i] = bytes_of(call.outputs[i]);
  }
  for (const auto& stream : streams.sends) {
    streams.longest = std::max(streams.longest, stream.size());
  }
  for (const auto& stream : streams.receives) {
    streams.longest = std::max(streams.longest, stream.size());
  }
  return streams;
}

std::vector<std::uint64_t> lengths_of(const Streams& streams) {
  std::vector<std::uint64_t> lengths;
  for (const auto& stream : streams.sends) lengths.push_back(stream.size());
  for (const auto& stream : streams.receives) lengths.push_back(stream.size());
  return lengths;
}

void check_lengths(const std::vector<std::span<const std::uint64_t>>& lengths) {
  const std::size_t ranks = lengths.size();
  for (std::size_t from = 0; from < ranks; ++from) {
    for (std::size_t to = 0; to < ranks; ++to) {
      const std::uint64_t sent = lengths[from][to];
      const std::uint64_t expected = lengths[to][ranks + from];
      if (sent == expected) continue;
      throw OperationFailure{OperationFailure::Kind::Mismatch,
                             "rank " + std::to_string(from) + " sends " + std::to_string(sent) +
                                 " bytes to rank " + std::to_string(to) + ", which expects " +
                                 std::to_string(expected),
                             "what a rank sends to another must be what that one expects from it"};
    }
  }
}

}  // namespace lockstep
