// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/collective/fingerprint.h"

namespace lockstep {

/// One call as every backend gets it. Arguments are checked: dense tensors of one dtype on one
/// device, one piece a rank where the collective has pieces.
///
/// | op            | inputs                     | outputs                   |
/// |---------------|----------------------------|---------------------------|
/// | AllReduce     | the tensor                 | the tensor                |
/// | Reduce        | the tensor                 | the tensor, at the root   |
/// | Broadcast     | the tensor                 | the tensor                |
/// | AllGather     | the tensor                 | one a rank                |
/// | Gather        | the tensor                 | one a rank, at the root   |
/// | Scatter       | one a rank, at the root    | the tensor                |
/// | ReduceScatter | one a rank                 | the tensor                |
/// | AllToAll      | one a rank                 | one a rank                |
struct Collective {
  CollectiveOp op = CollectiveOp::Barrier;
  ReduceOp reduce_op = ReduceOp::Sum;
  int root = 0;
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  /// AllToAll: this rank's pieces may differ in size, and only this rank knows them.
  bool has_own_sizes = false;
  CallName name{};
  /// AllReduce of blocks of the tensor, which is a tensor of registered memory: see
  /// `ProcessGroup::IndexedBlocks`.
  at::Tensor displacements{};
  std::vector<std::int64_t> block_counts{};

  [[nodiscard]] const at::Tensor& tensor() const {
    return inputs.empty() ? outputs.front() : inputs.front();
  }
  [[nodiscard]] at::ScalarType dtype() const { return tensor().scalar_type(); }
  /// The device of all its tensors; a barrier has none and counts as a call on the CPU.
  [[nodiscard]] c10::Device device() const {
    return inputs.empty() && outputs.empty() ? c10::Device(c10::kCPU) : tensor().device();
  }
};

/// Whether the collective combines the ranks' values; all others are data movement.
[[nodiscard]] constexpr bool is_reduction(CollectiveOp op) {
  return op == CollectiveOp::AllReduce || op == CollectiveOp::Reduce ||
         op == CollectiveOp::ReduceScatter;
}

/// Everything about a call that must be the same on all ranks.
[[nodiscard]] Fingerprint fingerprint_of(const Collective& call);

/// A collective that only moves bytes, as streams from rank to rank.
struct Streams {
  /// One stream a rank that all its receivers read, instead of one a pair.
  bool is_multicast = false;
  std::vector<std::span<const std::byte>> sends;  ///< multicast: one; else one a rank
  std::vector<std::span<std::byte>> receives;     ///< one a rank; empty: nothing comes from there
  /// The longest stream of all ranks; for an AllToAll with own sizes, the longest of this rank.
  std::size_t longest = 0;

  [[nodiscard]] std::span<const std::byte> to(int rank) const {
    return sends[is_multicast ? 0 : static_cast<std::size_t>(rank)];
  }
  [[nodiscard]] std::span<std::byte> from(int rank) const {
    return receives[static_cast<std::size_t>(rank)];
  }
  /// Copies what this rank sends to itself.
  void copy_own(int rank) const;
};
[[nodiscard]] Streams streams_of(const Collective& call, int rank, int world_size);

/// The part of `stream` that travels in round `round` of `chunk` bytes each; empty at the end.
template <typename Byte>
[[nodiscard]] std::span<Byte> part_of(std::span<Byte> stream, std::uint64_t round,
                                      std::size_t chunk) {
  const std::size_t start = std::min(stream.size(), static_cast<std::size_t>(round) * chunk);
  return stream.subspan(start, std::min(chunk, stream.size() - start));
}

/// Throws `OperationFailure` unless every rank expects from every other what that one sends.
/// `lengths[r]`: what rank r sends to each rank, then what it expects from each rank, in bytes.
void check_lengths(const std::vector<std::span<const std::uint64_t>>& lengths);
/// This rank's row for `check_lengths`.
[[nodiscard]] std::vector<std::uint64_t> lengths_of(const Streams& streams);

}  // namespace lockstep
