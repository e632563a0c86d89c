// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <bit>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/operations.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

// Long enough for the bandwidth of a network, short enough that all links are soon busy, and memory
// while they are.
constexpr std::size_t kMovePieceBytes = std::size_t{1} << 20;

std::size_t pieces_of(std::size_t bytes) {
  return (bytes + kMovePieceBytes - 1) / kMovePieceBytes;
}

/// How a broadcast goes from host to host. Hosts count from the root's, which is 0. A host receives
/// piece i in round `arrival(host) + i`, passes it on in later rounds, and gives it to its own
/// ranks in the round after.
class BroadcastTree {
 public:
  BroadcastTree(std::size_t hosts, std::size_t pieces)
      : hosts_(hosts), pieces_(pieces), is_chain_(pieces > 1) {}

  [[nodiscard]] std::size_t parent(std::size_t host) const {
    return is_chain_ ? host - 1 : host - std::bit_floor(host);
  }
  /// -1: the root has all pieces from the beginning.
  [[nodiscard]] int arrival(std::size_t host) const {
    return static_cast<int>(is_chain_ ? host : std::bit_width(host)) - 1;
  }
  /// The rounds in which anything goes between hosts.
  [[nodiscard]] int exchanges() const {
    return hosts_ == 1 ? 0 : arrival(hosts_ - 1) + static_cast<int>(pieces_);
  }
  [[nodiscard]] int rounds() const { return arrival(hosts_ - 1) + 1 + static_cast<int>(pieces_); }

 private:
  std::size_t hosts_;
  std::size_t pieces_;
  bool is_chain_;
};

/// The steps of the one chunk are the rounds of the tree.
class HierarchicalBroadcast final : public HierarchicalOperation {
 public:
  HierarchicalBroadcast(Hierarchy& hierarchy, Collective call)
      : HierarchicalOperation(hierarchy, fingerprint_of(call), call.tensor().nbytes(),
                              std::max<std::size_t>(1, call.tensor().nbytes())),
        call_(std::move(call)),
        tree_(host_count(), pieces_of(call_.tensor().nbytes())),
        root_host_(layout().host_of(call_.root)),
        own_place_((layout().own_host + host_count() - root_host_) % host_count()) {}

 private:
  bool start_step(int round, const Chunk&) override {
    if (round >= tree_.rounds()) return false;
    if (round < tree_.exchanges()) exchange(exchange_of(round));
    const auto here = piece(round - tree_.arrival(own_place_) - 1);
    if (!here.empty()) {
      start_local(local_broadcast(
          here, static_cast<std::size_t>(layout().index_of(first_rank(own_place_)))));
    }
    return true;
  }

  [[nodiscard]] Exchange exchange_of(int round) const {
    Exchange exchange = empty_exchange();
    if (rank() != first_rank(own_place_)) return exchange;
    for (std::size_t place = 1; place < host_count(); ++place) {
      const auto moved = piece(round - tree_.arrival(place));
      const std::size_t parent = tree_.parent(place);
      if (place == own_place_) {
        exchange.receives[static_cast<std::size_t>(first_rank(parent))] = moved;
      } else if (parent == own_place_) {
        exchange.sends[static_cast<std::size_t>(first_rank(place))] = moved;
      }
    }
    return exchange;
  }

  /// The rank that has the data first on its host.
  [[nodiscard]] int first_rank(std::size_t place) const {
    if (place == 0) return call_.root;
    return layout().hosts[(place + root_host_) % host_count()].front();
  }

  [[nodiscard]] std::span<std::byte> piece(int number) const {
    if (number < 0) return {};
    return part_of(bytes_of(call_.tensor()), static_cast<std::uint64_t>(number), kMovePieceBytes);
  }

  Collective call_;
  BroadcastTree tree_;
  std::size_t root_host_;
  std::size_t own_place_;  // of this host in the tree
};

/// The steps of the one chunk are rounds. In each of them, a part of every rank's piece goes to the
/// other hosts, and what came in the round before is given to the ranks of this host.
class HierarchicalAllGather final : public HierarchicalOperation {
 public:
  HierarchicalAllGather(Hierarchy& hierarchy, Collective call)
      : HierarchicalOperation(hierarchy, fingerprint_of(call), longest(call),
                              std::max<std::size_t>(1, longest(call))),
        call_(std::move(call)),
        rounds_(pieces_of(longest(call_))) {}

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.outputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }

  bool start_step(int step, const Chunk&) override {
    const auto round = static_cast<std::size_t>(step);
    if (round > rounds_) return false;
    if (round < rounds_) {
      if (host_count() > 1) exchange(exchange_of(round));
      gather_host(round);
    }
    if (round > 0) spread(round - 1);
    return true;
  }

  [[nodiscard]] std::span<std::byte> part(const at::Tensor& tensor, std::size_t round) const {
    return part_of(bytes_of(tensor), round, kMovePieceBytes);
  }
  [[nodiscard]] std::span<std::byte> part_of_rank(int rank, std::size_t round) const {
    return part(call_.outputs[static_cast<std::size_t>(rank)], round);
  }

  [[nodiscard]] Exchange exchange_of(std::size_t round) const {
    Exchange exchange = empty_exchange();
    for (std::size_t host = 0; host < host_count(); ++host) {
      if (host == layout().own_host) continue;
      const auto& ranks = layout().hosts[host];
      const auto receiver = static_cast<std::size_t>(ranks[local_rank() % ranks.size()]);
      exchange.sends[receiver] = part(call_.tensor(), round);
      for (std::size_t index = local_rank(); index < ranks.size(); index += local_size()) {
        exchange.receives[static_cast<std::size_t>(ranks[index])] =
            part_of_rank(ranks[index], round);
      }
    }
    return exchange;
  }

  void gather_host(std::size_t round) {
    const auto own = part(call_.tensor(), round);
    if (local_size() > 1) return gather(layout().own_ranks(), 0, own, round);
    const auto target = part_of_rank(rank(), round);
    if (own.data() != target.data()) std::copy(own.begin(), own.end(), target.begin());
  }

  /// As many ranks of another host at a time as this host has: each rank here has received from one
  /// of them.
  void spread(std::size_t round) {
    for (std::size_t host = 0; host < host_count(); ++host) {
      const auto& ranks = layout().hosts[host];
      if (host == layout().own_host) continue;
      for (std::size_t first = 0; first < ranks.size(); first += local_size()) {
        const std::size_t own = first + local_rank();
        gather(ranks, first,
               own < ranks.size() ? part_of_rank(ranks[own], round) : std::span<std::byte>(),
               round);
      }
    }
  }

  /// Gathers the parts of `ranks`, from `first` on, one from each rank of this host.
  void gather(const std::vector<int>& ranks, std::size_t first, std::span<std::byte> own,
              std::size_t round) {
    Collective gather{.op = CollectiveOp::AllGather, .inputs = {tensor_of(own)}, .outputs = {}};
    bool is_empty = true;
    for (std::size_t index = first; index < first + local_size(); ++index) {
      const auto bytes =
          index < ranks.size() ? part_of_rank(ranks[index], round) : std::span<std::byte>();
      gather.outputs.push_back(tensor_of(bytes));
      is_empty = is_empty && bytes.empty();
    }
    if (!is_empty) start_local(std::move(gather));
  }

  Collective call_;
  std::size_t rounds_;
};

std::unique_ptr<Operation> make_operation_of(Hierarchy& hierarchy, Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      if (!hierarchy.layout.is_in_rank_order) break;
      return make_hierarchical_reduction(hierarchy, std::move(call));
    case CollectiveOp::ReduceScatter:
      if (!hierarchy.layout.is_in_rank_order) break;
      return make_hierarchical_reduce_scatter(hierarchy, std::move(call));
    case CollectiveOp::Broadcast:
      return make_hierarchical_broadcast(hierarchy, std::move(call));
    case CollectiveOp::AllGather:
      return make_hierarchical_all_gather(hierarchy, std::move(call));
    case CollectiveOp::Gather:
    case CollectiveOp::Scatter:
    case CollectiveOp::AllToAll:
      return make_hierarchical_streams(hierarchy, std::move(call));
    default:
      break;
  }
  return make_exchange_operation(hierarchy.transport, std::move(call));
}

}  // namespace

std::unique_ptr<Operation> make_hierarchical_broadcast(Hierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalBroadcast>(hierarchy, std::move(call));
}

std::unique_ptr<Operation> make_hierarchical_all_gather(Hierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalAllGather>(hierarchy, std::move(call));
}

std::unique_ptr<Operation> make_hierarchical_operation(Hierarchy& hierarchy, Collective call) {
  return with_lost_rank_named(hierarchy, make_operation_of(hierarchy, std::move(call)));
}

}  // namespace lockstep
