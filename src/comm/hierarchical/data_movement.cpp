// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/operations.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

using native::check_mpi;

constexpr int kLeaderTag = 5;
constexpr std::size_t kMoveChunkBytes = std::size_t{16} << 20;

Collective local_broadcast(std::span<std::byte> bytes, int root) {
  const auto tensor = tensor_of(bytes);
  return {.op = CollectiveOp::Broadcast, .root = root, .inputs = {tensor}, .outputs = {tensor}};
}

class HierarchicalBroadcast final : public MpiHierarchicalOperation {
 public:
  HierarchicalBroadcast(MpiHierarchy& hierarchy, Collective call)
      : MpiHierarchicalOperation(hierarchy, fingerprint_of(call), call.tensor().nbytes(),
                                 kMoveChunkBytes),
        call_(std::move(call)) {}

 private:
  bool start_step(int step, const Chunk& chunk) override {
    const auto bytes = bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes);
    const std::size_t root_host = layout().host_of(call_.root);
    const bool is_root_host = layout().own_host == root_host;
    switch (step) {
      case 0:
        if (is_root_host) start_local(local_broadcast(bytes, layout().index_of(call_.root)));
        return true;
      case 1:
        if (hierarchy().leaders) {
          check_mpi(
              MPI_Ibcast(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE,
                         static_cast<int>(root_host), hierarchy().leaders->get(), requests().add()),
              "MPI_Ibcast");
        }
        return true;
      case 2:
        if (!is_root_host) start_local(local_broadcast(bytes, 0));
        return true;
      default:
        return false;
    }
  }
  Collective call_;
};

class HierarchicalAllGather final : public MpiHierarchicalOperation {
 public:
  HierarchicalAllGather(MpiHierarchy& hierarchy, Collective call)
      : MpiHierarchicalOperation(hierarchy, fingerprint_of(call), longest(call), kMoveChunkBytes),
        call_(std::move(call)) {
    for (std::size_t host = 0; host < layout().hosts.size(); ++host) {
      if (host == layout().own_host) continue;
      const auto& ranks = layout().hosts[host];
      foreign_.insert(foreign_.end(), ranks.begin(), ranks.end());
    }
  }

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.outputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }

  [[nodiscard]] std::span<std::byte> part(const at::Tensor& tensor, const Chunk& chunk) const {
    return part_of(bytes_of(tensor), round_of(chunk), chunk_bytes());
  }
  [[nodiscard]] std::span<std::byte> part_of_rank(int rank, const Chunk& chunk) const {
    return part(call_.outputs[static_cast<std::size_t>(rank)], chunk);
  }

  bool start_step(int step, const Chunk& chunk) override {
    if (step == 0) {
      gather_host(chunk);
    } else if (step == 1) {
      if (hierarchy().leaders) exchange_between_hosts(chunk);
    } else {
      const auto place = static_cast<std::size_t>(step - 2);
      if (place >= foreign_.size() || local_size() == 1) return false;
      const auto bytes = part_of_rank(foreign_[place], chunk);
      if (!bytes.empty()) start_local(local_broadcast(bytes, 0));
    }
    return true;
  }

  void gather_host(const Chunk& chunk) {
    const auto own = part(call_.tensor(), chunk);
    const auto target = part_of_rank(rank(), chunk);
    if (local_size() == 1) {
      if (own.data() != target.data()) std::copy(own.begin(), own.end(), target.begin());
      return;
    }
    Collective gather{.op = CollectiveOp::AllGather, .inputs = {tensor_of(own)}, .outputs = {}};
    for (const int rank : layout().own_ranks()) {
      gather.outputs.push_back(tensor_of(part_of_rank(rank, chunk)));
    }
    start_local(std::move(gather));
  }

  /// Between first ranks: to each other host all pieces of this one, in the order of the ranks.
  void exchange_between_hosts(const Chunk& chunk) {
    const MPI_Comm leaders = hierarchy().leaders->get();
    for (const int rank : foreign_) {
      const auto bytes = part_of_rank(rank, chunk);
      if (bytes.empty()) continue;
      check_mpi(MPI_Irecv(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE,
                          static_cast<int>(layout().host_of(rank)), kLeaderTag, leaders,
                          requests().add()),
                "MPI_Irecv");
    }
    for (std::size_t host = 0; host < layout().hosts.size(); ++host) {
      for (const int rank : layout().own_ranks()) {
        const auto bytes = part_of_rank(rank, chunk);
        if (host == layout().own_host || bytes.empty()) continue;
        check_mpi(MPI_Isend(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE,
                            static_cast<int>(host), kLeaderTag, leaders, requests().add()),
                  "MPI_Isend");
      }
    }
  }

  Collective call_;
  std::vector<int> foreign_;  // ranks of other hosts
};

}  // namespace

std::unique_ptr<Operation> make_hierarchical_broadcast(MpiHierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalBroadcast>(hierarchy, std::move(call));
}

std::unique_ptr<Operation> make_hierarchical_all_gather(MpiHierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalAllGather>(hierarchy, std::move(call));
}

std::unique_ptr<Operation> make_hierarchical_operation(MpiHierarchy& hierarchy, Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      if (!hierarchy.layout.is_in_rank_order) break;
      return make_hierarchical_reduction(hierarchy, std::move(call));
    case CollectiveOp::Broadcast:
      return make_hierarchical_broadcast(hierarchy, std::move(call));
    case CollectiveOp::AllGather:
      return make_hierarchical_all_gather(hierarchy, std::move(call));
    default:
      break;
  }
  return make_exchange_operation(hierarchy.transport, std::move(call));
}

}  // namespace lockstep
