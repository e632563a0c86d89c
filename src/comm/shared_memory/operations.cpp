// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/operations.h"

#include <utility>

#include "comm/shared_memory/operation.h"

namespace lockstep {
namespace {

class Barrier final : public SharedMemoryOperation {
 public:
  Barrier(SharedMemoryTransport& transport, const Fingerprint& fingerprint)
      : SharedMemoryOperation(transport, fingerprint, {}) {}
};

}  // namespace

std::unique_ptr<Operation> make_shared_memory_barrier(SharedMemoryTransport& transport,
                                                      std::size_t bytes) {
  Fingerprint fingerprint;
  fingerprint.elements = bytes;
  return std::make_unique<Barrier>(transport, fingerprint);
}

std::unique_ptr<Operation> make_shared_memory_operation(SharedMemoryTransport& transport,
                                                        Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      return make_shared_memory_reduction(transport, std::move(call));
    case CollectiveOp::ReduceScatter:
      return make_shared_memory_reduce_scatter(transport, std::move(call));
    case CollectiveOp::Barrier:
      return std::make_unique<Barrier>(transport, fingerprint_of(call));
    default:
      return make_shared_memory_data_movement(transport, std::move(call));
  }
}

}  // namespace lockstep
