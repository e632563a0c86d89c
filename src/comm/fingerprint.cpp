// SPDX-License-Identifier: BSD-3-Clause
#include "comm/fingerprint.h"

#include <ATen/core/Tensor.h>
#include <lockstep/comm/types.h>

#include <sstream>
#include <utility>

#include "comm/operation.h"

namespace lockstep {

Fingerprint fingerprint_of(CollectiveOp op, const at::Tensor& tensor) {
  Fingerprint print;
  print.op = op;
  print.dtype = static_cast<std::uint8_t>(tensor.scalar_type());
  print.elements = static_cast<std::uint64_t>(tensor.numel());
  if (!tensor.is_contiguous()) {
    for (const auto stride : tensor.strides()) {
      print.place = print.place * 1000003 + static_cast<std::uint64_t>(stride) + 1;
    }
  }
  return print;
}

Fingerprint fingerprint_of_all_reduce(const at::Tensor& tensor, ReduceOp op) {
  Fingerprint print = fingerprint_of(CollectiveOp::AllReduce, tensor);
  print.reduce_op = static_cast<std::uint8_t>(op);
  return print;
}

Fingerprint fingerprint_of_broadcast(const at::Tensor& tensor, int root) {
  Fingerprint print = fingerprint_of(CollectiveOp::Broadcast, tensor);
  print.root = root;
  return print;
}

std::string describe(const Fingerprint& fingerprint) {
  std::ostringstream text;
  const auto dtype = static_cast<at::ScalarType>(fingerprint.dtype);
  switch (fingerprint.op) {
    case CollectiveOp::AllReduce:
      text << "all_reduce (" << to_string(static_cast<ReduceOp>(fingerprint.reduce_op)) << ") of "
           << fingerprint.elements << " x " << dtype;
      break;
    case CollectiveOp::Broadcast:
      text << "broadcast from rank " << fingerprint.root << " of " << fingerprint.elements << " x "
           << dtype;
      break;
    case CollectiveOp::AllGather:
      text << "all_gather of " << fingerprint.elements << " x " << dtype;
      break;
    case CollectiveOp::Barrier:
      if (fingerprint.elements == 0) return "barrier";
      text << "allocate of " << fingerprint.elements << " bytes";
      break;
  }
  if (fingerprint.placement != 0) {
    text << " in group memory (place " << fingerprint.place << ")";
  } else if (fingerprint.place != 0) {
    text << " in an unusual memory order (hash of strides " << fingerprint.place << ")";
  }
  return std::move(text).str();
}

void check_fingerprints(int world_size, const std::function<Fingerprint(int rank)>& of) {
  const Fingerprint first = of(0);
  for (int rank = 1; rank < world_size; ++rank) {
    const Fingerprint other = of(rank);
    if (other == first) continue;
    throw OperationFailure{OperationFailure::Kind::Mismatch,
                           "rank 0 called " + describe(first) + ", rank " + std::to_string(rank) +
                               " called " + describe(other),
                           "all ranks must make the same calls in the same order"};
  }
}

}  // namespace lockstep
