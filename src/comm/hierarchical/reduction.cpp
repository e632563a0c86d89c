// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/hierarchical/chain.h"
#include "comm/hierarchical/operation.h"

namespace lockstep {
namespace {

// Scratch memory holds a few times as many bytes at once.
constexpr std::size_t kReductionChunkBytes = std::size_t{32} << 20;

class HierarchicalReduction final : public MpiHierarchicalOperation {
 public:
  HierarchicalReduction(MpiHierarchy& hierarchy, Collective call)
      : MpiHierarchicalOperation(hierarchy, fingerprint_of(call), call.tensor().nbytes(),
                                 kReductionChunkBytes),
        call_(std::move(call)),
        columns_(layout().smallest_host()),
        chain_(place(), call_.dtype(), call_.reduce_op) {}

 private:
  // The steps of a chunk: exchange shares inside the host, reduce one along the chain, put the
  // shares together inside the host.
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

  bool is_step_done() override {
    if (!MpiHierarchicalOperation::is_step_done()) return false;
    if (is_in_chain_ && !chain_.advance()) return false;
    is_in_chain_ = false;
    return true;
  }

  [[nodiscard]] std::string describe_missing() const override {
    if (!is_in_chain_) return MpiHierarchicalOperation::describe_missing();
    // The neighbour in the chain may itself wait for the one that is gone.
    const std::string silent = find_silent_mpi_peers(hierarchy().transport.channels());
    if (!silent.empty()) return silent;
    const auto late = chain_.waits_for();
    if (!late) return "another host has not taken this host's part";
    return "rank " + std::to_string(*late) + " has not passed on its host's part";
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
  [[nodiscard]] std::size_t last_host_with_result() const {
    return is_all_reduce() ? 0 : layout().host_of(call_.root);
  }
  [[nodiscard]] bool has_result() const {
    return is_all_reduce() || layout().own_host == last_host_with_result();
  }

  [[nodiscard]] MpiChain::Place place() const {
    MpiChain::Place place;
    if (local_rank() >= columns_) return place;
    const auto& hosts = layout().hosts;
    const std::size_t own = layout().own_host;
    place.communicator = hierarchy().transport.channels().data.get();
    place.world_size = world_size();
    if (own > 0) place.previous = hosts[own - 1][local_rank()];
    if (own + 1 < hosts.size()) place.next = hosts[own + 1][local_rank()];
    place.takes_result = own >= last_host_with_result();
    place.hands_result_on = own > last_host_with_result();
    return place;
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
    is_in_chain_ = !result_.empty();
    if (!is_in_chain_) return;
    std::vector<const std::byte*> values;
    for (std::size_t index = 0; index < local_size(); ++index) {
      values.push_back(local_size() == 1 ? chunk_.data()
                                         : scratch_.data() + index * result_.size());
    }
    chain_.start(std::move(values), result_);
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
  MpiChain chain_;
  bool is_in_chain_ = false;
  std::span<std::byte> chunk_;
  std::vector<std::byte> scratch_;  // this rank's share of the values of all ranks of the host
  std::vector<std::byte> result_;
};

}  // namespace

std::unique_ptr<Operation> make_hierarchical_reduction(MpiHierarchy& hierarchy, Collective call) {
  return std::make_unique<HierarchicalReduction>(hierarchy, std::move(call));
}

}  // namespace lockstep
