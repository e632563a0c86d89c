// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/stream_lengths.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

/// Collectives in which each byte has one receiver: what goes to another host goes straight to the
/// rank that wants it, and meanwhile the rest goes through the memory of this host.
class HierarchicalStreams final : public HierarchicalOperation {
 public:
  HierarchicalStreams(Hierarchy& hierarchy, Collective call, Streams streams)
      : HierarchicalOperation(hierarchy, fingerprint_of(call), streams.longest,
                              hierarchy.transport.chunk_bytes().stream),
        call_(std::move(call)),
        streams_(std::move(streams)) {}

 private:
  bool start_preparation(int step) override {
    if (!call_.has_own_sizes) return false;
    if (step == 0) {
      exchange(lengths_.gather(streams_, world_size()));
      return true;
    }
    set_bytes(lengths_.check());
    return false;
  }

  bool start_step(int step, const Chunk& chunk) override {
    if (step != 0) return false;
    const std::uint64_t round = round_of(chunk);
    if (round == 0) start_on_host();
    if (host_count() == 1) return true;
    Exchange parts = empty_exchange();
    for (int peer = 0; peer < world_size(); ++peer) {
      if (layout().host_of(peer) == layout().own_host) continue;
      const auto index = static_cast<std::size_t>(peer);
      if (is_read_by(peer)) {
        parts.sends[index] = part_of(streams_.to(peer), round, chunk_bytes());
      }
      parts.receives[index] = part_of(streams_.from(peer), round, chunk_bytes());
    }
    exchange(parts);
    return true;
  }

  [[nodiscard]] bool is_read_by(int peer) const {
    return call_.op != CollectiveOp::Gather || peer == call_.root;
  }

  /// The same collective among the ranks of this host, as far as they have a part in it.
  void start_on_host() {
    const bool has_root = call_.op != CollectiveOp::AllToAll;
    if (has_root && layout().host_of(call_.root) != layout().own_host) return;
    if (local_size() == 1) return streams_.copy_own(rank());
    Collective local{.op = call_.op,
                     .root = has_root ? layout().index_of(call_.root) : 0,
                     .inputs = of_this_host(call_.inputs),
                     .outputs = of_this_host(call_.outputs),
                     .has_own_sizes = call_.has_own_sizes};
    start_local(std::move(local));
  }

  /// `tensors`: one a rank, or only this rank's.
  [[nodiscard]] std::vector<at::Tensor> of_this_host(const std::vector<at::Tensor>& tensors) const {
    if (tensors.size() < static_cast<std::size_t>(world_size())) return tensors;
    std::vector<at::Tensor> chosen;
    for (const int rank : layout().own_ranks()) {
      chosen.push_back(tensors[static_cast<std::size_t>(rank)]);
    }
    return chosen;
  }

  Collective call_;
  Streams streams_;
  StreamLengths lengths_;
};

}  // namespace

std::unique_ptr<Operation> make_hierarchical_streams(Hierarchy& hierarchy, Collective call) {
  auto streams = streams_of(call, hierarchy.transport.rank(), hierarchy.transport.world_size());
  return std::make_unique<HierarchicalStreams>(hierarchy, std::move(call), std::move(streams));
}

}  // namespace lockstep
