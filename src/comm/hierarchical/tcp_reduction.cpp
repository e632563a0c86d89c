// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/tcp_reduction.h"

#include <utility>

#include "comm/tcp/chain_reduction.h"
#include "comm/tcp/transport.h"

namespace lockstep {
namespace {

class TcpHostReduction final : public HostReduction {
 public:
  TcpHostReduction(TcpConnections& connections, ReduceKernel kernel)
      : connections_(connections), kernel_(std::move(kernel)) {}

  void start(std::vector<ReductionLine> lines, const ReductionExtent&) override {
    lines_ = std::move(lines);
    next_ = 0;
    start_next();
  }

  bool advance() override {
    while (chain_) {
      if (!chain_->is_done()) connections_.engine().poll();
      if (!chain_->is_done()) return false;
      start_next();
    }
    return true;
  }

  [[nodiscard]] std::optional<int> waits_for() const override {
    const auto held = connections_.engine().lock();
    return chain_ ? chain_->waits_for() : std::nullopt;
  }

 private:
  using Neighbour = TcpChainReduction::Neighbour;

  void start_next() {
    chain_.reset();
    while (next_ < lines_.size() && lines_[next_].result.empty()) ++next_;
    if (next_ == lines_.size()) return;
    ReductionLine& line = lines_[next_++];
    TcpEngine& engine = connections_.engine();
    auto held = engine.lock();
    chain_ = std::make_shared<TcpChainReduction>(
        TcpChainReduction::Place{.previous = neighbour(line.previous, TcpChannel::Contributions),
                                 .next = neighbour(line.next, TcpChannel::Contributions),
                                 .result_from = neighbour(line.result_from, TcpChannel::Results),
                                 .result_to = neighbour(line.result_to, TcpChannel::Results)},
        kernel_, std::move(line.values), line.result);
    connections_.start(chain_);
    engine.hand_over(held);
  }

  [[nodiscard]] std::optional<Neighbour> neighbour(std::optional<int> rank, TcpChannel channel) {
    if (!rank) return std::nullopt;
    return Neighbour{*rank, &connections_.stream(*rank, channel)};
  }

  TcpConnections& connections_;
  ReduceKernel kernel_;
  std::vector<ReductionLine> lines_;
  std::size_t next_ = 0;
  std::shared_ptr<TcpChainReduction> chain_;  // null: all lines are complete
};

}  // namespace

std::unique_ptr<HostReduction> make_tcp_host_reduction(Transport& transport, at::ScalarType dtype,
                                                       ReduceOp op) {
  return std::make_unique<TcpHostReduction>(static_cast<TcpTransport&>(transport).connections(),
                                            reduce_kernel_of(dtype, op, transport.world_size()));
}

}  // namespace lockstep
