// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

// Scratch memory holds a few times as many bytes at once.
constexpr std::size_t kReductionChunkBytes = std::size_t{32} << 20;

class HierarchicalReduction final : public HierarchicalOperation {
 public:
  HierarchicalReduction(Hierarchy& hierarchy, Collective call)
      : HierarchicalOperation(hierarchy, fingerprint_of(call), call.tensor().nbytes(),
                              kReductionChunkBytes),
        call_(std::move(call)),
        columns_(layout().smallest_host()) {}

 private:
  // The steps of a chunk: exchange shares inside the host, reduce one along a line of hosts, put
  // the shares together inside the host.
  bool start_step(int step, const Chunk& chunk) override {
    switch (step) {
      case 0:
        chunk_ = bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes);
        exchange_shares();
        return true;
      case 1:
        reduce();
        return true;
      case 2:
        if (has_result()) spread();
        return true;
      default:
        return false;
    }
  }

  /// A host with more ranks than another has some that take no share.
  [[nodiscard]] std::span<std::byte> share(std::size_t index) const {
    if (index >= columns_) return {};
    const std::size_t element = c10::elementSize(call_.dtype());
    const std::size_t elements = chunk_.size() / element;
    const std::size_t start = elements * index / columns_;
    const std::size_t end = elements * (index + 1) / columns_;
    return chunk_.subspan(start * element, (end - start) * element);
  }

  [[nodiscard]] bool is_all_reduce() const { return call_.op == CollectiveOp::AllReduce; }
  [[nodiscard]] std::size_t root_host() const { return layout().host_of(call_.root); }
  [[nodiscard]] bool has_result() const {
    return is_all_reduce() || layout().own_host == root_host();
  }

  [[nodiscard]] std::optional<int> on_host(std::size_t host) const {
    return layout().hosts[host][local_rank()];
  }

  [[nodiscard]] ReductionLine own_line() const {
    const std::size_t own = layout().own_host;
    const std::size_t last = host_count() - 1;
    ReductionLine line{.number = static_cast<int>(local_rank())};
    if (own > 0) line.previous = on_host(own - 1);
    if (own < last) line.next = on_host(own + 1);
    if (is_all_reduce()) {
      line.hops = last - own;
      line.result_from = line.next;
      line.result_to = line.previous;
    } else if (root_host() != last) {
      if (own == root_host()) {
        line.hops = 1;
        line.result_from = on_host(last);
      } else if (own == last) {
        line.result_to = on_host(root_host());
      }
    }
    return line;
  }

  void exchange_shares() {
    const std::size_t bytes = share(local_rank()).size();
    result_.resize(bytes);
    if (local_size() == 1) return;
    scratch_.resize(bytes * local_size());
    Collective exchange{
        .op = CollectiveOp::AllToAll, .inputs = {}, .outputs = {}, .has_own_sizes = true};
    for (std::size_t index = 0; index < local_size(); ++index) {
      exchange.inputs.push_back(tensor_of(share(index)));
      exchange.outputs.push_back(tensor_of(std::span(scratch_).subspan(index * bytes, bytes)));
    }
    start_local(std::move(exchange));
  }

  void reduce() {
    std::vector<ReductionLine> lines;
    if (local_rank() < columns_) {
      lines.push_back(own_line());
      lines.back().result = result_;
      for (std::size_t index = 0; index < local_size(); ++index) {
        lines.back().values.push_back(local_size() == 1 ? chunk_.data()
                                                        : scratch_.data() + index * result_.size());
      }
    }
    const std::size_t hops = is_all_reduce() ? host_count() - 1 : 1;
    // The last share is one of the longest.
    start_reduction(call_, std::move(lines),
                    {.bytes = share(columns_ - 1).size(),
                     .hosts = host_count(),
                     .own_host = layout().own_host,
                     .hops = hops});
  }

  void spread() {
    const std::size_t root =
        is_all_reduce() ? 0 : static_cast<std::size_t>(layout().index_of(call_.root));
    Collective spread{.op = is_all_reduce() ? CollectiveOp::AllGather : CollectiveOp::AllToAll,
                      .inputs = {},
                      .outputs = {},
                      .has_own_sizes = !is_all_reduce()};
    for (std::size_t index = 0; index < local_size(); ++index) {
      const bool is_target = is_all_reduce() ? index == 0 : index == root;
      const bool is_taken = is_all_reduce() || local_rank() == root;
      // The share goes to all ranks, or only to the root.
      if (is_target || !is_all_reduce()) {
        spread.inputs.push_back(tensor_of(is_target ? std::span(result_) : std::span<std::byte>()));
      }
      spread.outputs.push_back(tensor_of(is_taken ? share(index) : std::span<std::byte>()));
    }
    if (local_size() > 1) return start_local(std::move(spread));
    std::copy(result_.begin(), result_.end(), chunk_.begin());
  }

  Collective call_;
  std::size_t columns_;  // ranks of a host that take a share, the same number on each
  std::span<std::byte> chunk_;
  std::vector<std::byte> scratch_;  // this rank's share of the values of all ranks of the host
  std::vector<std::byte> result_;
};

}  // namespace

std::unique_ptr<Operation> make_hierarchical_reduction(Hierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalReduction>(hierarchy, std::move(call));
}

}  // namespace lockstep
