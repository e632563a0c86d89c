// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

// Scratch memory holds a few times as many bytes at once, those of the pieces of all ranks.
constexpr std::size_t kScatteredChunkBytes = std::size_t{32} << 20;

/// Each rank's piece has a line of its own. On the piece's host the rank itself stands in it, and
/// on each other host the rank of the same index, counted round where there are fewer.
class HierarchicalReduceScatter final : public HierarchicalOperation {
 public:
  HierarchicalReduceScatter(Hierarchy& hierarchy, Collective call)
      : HierarchicalOperation(hierarchy, fingerprint_of(call), longest(call),
                              chunk_of(hierarchy.transport)),
        call_(std::move(call)) {
    pieces_.resize(local_size());
    for (const auto& ranks : layout().hosts) {
      for (std::size_t index = 0; index < ranks.size(); ++index) {
        pieces_[index % local_size()].push_back(ranks[index]);
      }
    }
  }

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.inputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }
  static std::size_t chunk_of(const Transport& transport) {
    const auto ranks = static_cast<std::size_t>(transport.world_size());
    return std::max<std::size_t>(64, kScatteredChunkBytes / ranks / 64 * 64);
  }

  // The steps of a chunk: give the values of each piece to the rank of this host that stands in its
  // line, and reduce along the lines, whose results come straight to the ranks that want them.
  bool start_step(int step, const Chunk& chunk) override {
    switch (step) {
      case 0:
        round_ = round_of(chunk);
        if (local_size() > 1) exchange_values();
        return true;
      case 1:
        reduce(chunk.bytes);
        return true;
      default:
        return false;
    }
  }

  [[nodiscard]] std::span<std::byte> part(int piece) const {
    return part_of(bytes_of(call_.inputs[static_cast<std::size_t>(piece)]), round_, chunk_bytes());
  }
  [[nodiscard]] std::size_t bytes_for(std::size_t index) const {
    std::size_t bytes = 0;
    for (const int piece : pieces_[index]) bytes += part(piece).size();
    return bytes;
  }

  void exchange_values() {
    sent_.clear();
    for (const auto& pieces : pieces_) {
      for (const int piece : pieces) {
        const auto bytes = part(piece);
        sent_.insert(sent_.end(), bytes.begin(), bytes.end());
      }
    }
    const std::size_t own_bytes = bytes_for(local_rank());
    scratch_.resize(own_bytes * local_size());
    Collective exchange{.op = CollectiveOp::AllToAll, .inputs = {}, .outputs = {}};
    std::size_t start = 0;
    for (std::size_t index = 0; index < local_size(); ++index) {
      const std::size_t bytes = bytes_for(index);
      exchange.has_own_sizes = exchange.has_own_sizes || bytes != own_bytes;
      exchange.inputs.push_back(tensor_of(std::span(sent_).subspan(start, bytes)));
      exchange.outputs.push_back(
          tensor_of(std::span(scratch_).subspan(index * own_bytes, own_bytes)));
      start += bytes;
    }
    // Every rank of the host sees by the same sizes whether they differ.
    start_local(std::move(exchange));
  }

  void reduce(std::size_t longest_part) {
    const std::size_t own_bytes = bytes_for(local_rank());
    results_.resize(own_bytes);
    std::vector<ReductionLine> lines;
    std::size_t start = 0;
    for (const int piece : pieces_[local_rank()]) {
      lines.push_back(line_of(piece));
      const std::size_t bytes = part(piece).size();
      lines.back().result = piece == rank()
                                ? part_of(bytes_of(call_.outputs.front()), round_, chunk_bytes())
                                : std::span(results_).subspan(start, bytes);
      for (std::size_t index = 0; index < local_size(); ++index) {
        lines.back().values.push_back(
            local_size() == 1 ? part(piece).data() : scratch_.data() + index * own_bytes + start);
      }
      start += bytes;
    }
    start_reduction(
        call_, std::move(lines),
        {.bytes = longest_part, .hosts = host_count(), .own_host = layout().own_host, .hops = 1});
  }

  [[nodiscard]] ReductionLine line_of(int piece) const {
    const std::size_t own = layout().own_host;
    const std::size_t last = host_count() - 1;
    const auto index = static_cast<std::size_t>(layout().index_of(piece));
    const auto on_host = [&](std::size_t host) {
      return layout().hosts[host][index % layout().hosts[host].size()];
    };
    ReductionLine line;
    line.number = piece;
    if (own > 0) line.previous = on_host(own - 1);
    if (own < last) line.next = on_host(own + 1);
    if (layout().host_of(piece) == last) return line;
    if (own == last) line.result_to = piece;
    if (piece == rank()) {
      line.hops = 1;
      line.result_from = on_host(last);
    }
    return line;
  }

  Collective call_;
  std::vector<std::vector<int>> pieces_;  // of each rank of this host: in whose lines it stands
  std::uint64_t round_ = 0;
  std::vector<std::byte> sent_, scratch_, results_;
};

}  // namespace

std::unique_ptr<Operation> make_hierarchical_reduce_scatter(Hierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalReduceScatter>(hierarchy, std::move(call));
}

}  // namespace lockstep
