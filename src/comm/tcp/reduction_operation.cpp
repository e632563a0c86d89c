// SPDX-License-Identifier: BSD-3-Clause
#include <utility>
#include <vector>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/backoff.h"
#include "comm/tcp/transport.h"

namespace lockstep {
namespace {

/// This rank's values; none is empty.
std::vector<std::span<std::byte>> blocks_of(const Collective& call) {
  const auto all = bytes_of(call.tensor());
  std::vector<std::span<std::byte>> blocks;
  if (!call.displacements.defined()) {
    if (!all.empty()) blocks.push_back(all);
    return blocks;
  }
  const std::size_t element = c10::elementSize(call.dtype());
  const auto* displacements = call.displacements.const_data_ptr<std::int64_t>();
  for (std::size_t block = 0; block < call.block_counts.size(); ++block) {
    const auto count = static_cast<std::size_t>(call.block_counts[block]);
    const auto start = static_cast<std::size_t>(displacements[block]);
    if (count > 0) blocks.push_back(all.subspan(start * element, count * element));
  }
  return blocks;
}

class TcpReduction final : public Operation {
 public:
  TcpReduction(TcpTransport& transport, Collective call)
      : transport_(transport), call_(std::move(call)), blocks_(blocks_of(call_)) {
    for (const auto& block : blocks_) bytes_ += block.size();
    is_small_ = is_small_tcp_reduction(connections(), bytes_);
  }

  bool try_start(bool) override {
    if (is_started_) return true;
    is_started_ = true;
    TcpEngine& engine = connections().engine();
    auto held = engine.lock();
    const std::vector<std::span<const std::byte>> values(blocks_.begin(), blocks_.end());
    number_ =
        connections().announce(fingerprint_of(call_), is_small_ ? values : decltype(values)());
    if (is_small_) {  // what the kernel has not taken goes on
      engine.hand_over(held);
      return true;
    }
    OwnerReductionCall reduction{
        .number = number_,
        .blocks = blocks_,
        .root = std::nullopt,
        .kernel = reduce_kernel_of(call_.dtype(), call_.reduce_op, transport_.world_size())};
    if (call_.op == CollectiveOp::Reduce) reduction.root = call_.root;
    task_ = connections().reductions().start(std::move(reduction));
    engine.hand_over(held);
    return true;
  }

  bool try_finish() override {
    if (is_complete_) return true;
    TcpEngine& engine = connections().engine();
    if (!is_agreed_ || !task_->is_done()) engine.poll();
    if (!is_agreed_ && !agree()) return false;
    if (task_ && !task_->is_done()) return false;
    auto held = engine.lock();
    connections().announcements().forget(number_);
    engine.hand_over(held);
    return is_complete_ = true;
  }

  void sleep(std::chrono::nanoseconds limit) override {
    if (task_) return connections().engine().wait(limit);
    transport_.sleep(limit, backoff_);
  }

  void check_peers() override {
    if (is_complete_) return check_tcp_peers(connections());
    check_tcp_announcement(connections(), number_);
  }

  [[nodiscard]] std::string describe_missing() const override {
    if (!is_started_) return "this rank has not begun";
    return describe_tcp_missing(connections(), number_);
  }

 private:
  [[nodiscard]] TcpConnections& connections() const { return transport_.connections(); }
  [[nodiscard]] bool is_own(std::size_t rank) const {
    return rank == static_cast<std::size_t>(transport_.rank());
  }

  /// Compares what the ranks have announced, when all have.
  bool agree() {
    const auto held = connections().engine().try_lock();
    if (!held.owns_lock() || !connections().announcements().is_complete(number_)) return false;
    const auto ranks = connections().announcements().of(number_);
    check_fingerprints(transport_.world_size(),
                       [&](int rank) { return ranks[static_cast<std::size_t>(rank)].fingerprint; });
    if (is_small_) {
      check_lengths(ranks);
      reduce_small(ranks);
    }
    return is_agreed_ = true;
  }

  /// The fingerprint does not say how many values came with it.
  void check_lengths(std::span<const TcpAnnouncements::FromRank> ranks) const {
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      if (is_own(rank) || ranks[rank].values.size() == bytes_) continue;
      throw OperationFailure{OperationFailure::Kind::Backend,
                             connections().name_of(static_cast<int>(rank)) +
                                 " sent values of another length than its call has",
                             "run the same build on all ranks"};
    }
  }

  void reduce_small(std::span<const TcpAnnouncements::FromRank> ranks) {
    if (call_.op == CollectiveOp::Reduce && call_.root != transport_.rank()) return;
    std::size_t offset = 0;
    for (const auto& block : blocks_) {
      std::vector<const void*> inputs;
      for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
        inputs.push_back(is_own(rank) ? block.data() : ranks[rank].values.data() + offset);
      }
      void* output = block.data();
      reduce_ranks(call_.dtype(), call_.reduce_op, inputs, std::span(&output, 1),
                   block.size() / c10::elementSize(call_.dtype()));
      offset += block.size();
    }
  }

  TcpTransport& transport_;
  Collective call_;
  std::vector<std::span<std::byte>> blocks_;
  std::size_t bytes_ = 0;
  bool is_small_ = false;  // the values go with the announcement
  std::uint64_t number_ = 0;
  std::shared_ptr<TcpTask> task_;  // null: the values came with the announcements
  bool is_started_ = false;
  bool is_agreed_ = false;
  bool is_complete_ = false;
  Backoff backoff_;
};

}  // namespace

bool is_small_tcp_reduction(const TcpConnections& connections, std::size_t bytes) {
  return bytes <= connections.sizes().small_bytes;
}

ReduceKernel reduce_kernel_of(at::ScalarType dtype, ReduceOp op, int world_size) {
  return {
      .element_bytes = c10::elementSize(dtype),
      .accumulator_bytes = accumulator_bytes(dtype),
      .all =
          [=](ReduceKernel::Inputs inputs, void* output, std::size_t elements) {
            reduce_ranks(dtype, op, inputs, std::span(&output, 1), elements);
          },
      .some =
          [=](const void* before, ReduceKernel::Inputs inputs, void* after, std::size_t elements) {
            reduce_some_ranks(dtype, op, before, inputs, after, elements);
          },
      .last =
          [=](const void* before, ReduceKernel::Inputs inputs, void* output, std::size_t elements) {
            reduce_last_ranks(dtype, op, before, inputs, output, elements, world_size);
          }};
}

std::unique_ptr<Operation> make_tcp_reduction(TcpTransport& transport, Collective call) {
  return std::make_unique<TcpReduction>(transport, std::move(call));
}

}  // namespace lockstep
