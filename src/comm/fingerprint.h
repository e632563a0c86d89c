// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace at {
class Tensor;
}

namespace lockstep {

enum class CollectiveOp : std::uint8_t { AllReduce = 1, Broadcast, AllGather, Barrier };

/// What a rank says it is about to do. Ranks compare these before they touch each other's data.
/// Holds no torch.
struct Fingerprint {
  CollectiveOp op = CollectiveOp::Barrier;
  std::uint8_t dtype = 0;      ///< at::ScalarType
  std::uint8_t reduce_op = 0;  ///< ReduceOp
  std::uint8_t placement = 0;  ///< 1: in group memory, reduced in place
  std::int32_t root = 0;
  std::uint64_t elements = 0;  ///< of a barrier: the bytes of a joint allocation, else 0
  std::uint64_t place = 0;     ///< where in the group memory, or a hash of unusual strides

  bool operator==(const Fingerprint&) const = default;
};

/// What `tensor` adds to a fingerprint: dtype, number of elements, and the strides where they are
/// not the usual ones (elements are combined in the order in which they lie in memory).
[[nodiscard]] Fingerprint fingerprint_of(CollectiveOp op, const at::Tensor& tensor);
[[nodiscard]] Fingerprint fingerprint_of_all_reduce(const at::Tensor& tensor, ReduceOp op);
[[nodiscard]] Fingerprint fingerprint_of_broadcast(const at::Tensor& tensor, int root);

/// "all_reduce (Sum) of 10 x Float".
[[nodiscard]] std::string describe(const Fingerprint& fingerprint);

/// Compares what all ranks are about to do.
/// Throws: `OperationFailure` that names the first rank that differs from rank 0.
void check_fingerprints(int world_size, const std::function<Fingerprint(int rank)>& of);

}  // namespace lockstep
