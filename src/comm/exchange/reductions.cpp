// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/operation.h"
#include "comm/exchange/operations.h"

namespace lockstep {
namespace {

/// Reduces what the ranks sent, one row each in `rows`, into `target`.
void reduce_rows(const Collective& call, std::span<const std::byte> rows,
                 std::span<std::byte> target) {
  if (target.empty()) return;
  std::vector<const void*> inputs;
  for (std::size_t start = 0; start < rows.size(); start += target.size()) {
    inputs.push_back(rows.data() + start);
  }
  void* output = target.data();
  reduce_ranks(call.dtype(), call.reduce_op, inputs, std::span(&output, 1),
               target.size() / c10::elementSize(call.dtype()));
}

/// As many rows of `bytes` bytes as there are ranks, in `memory`.
std::vector<std::span<std::byte>> rows_in(std::vector<std::byte>& memory, std::size_t bytes,
                                          int ranks) {
  memory.resize(bytes * static_cast<std::size_t>(ranks));
  std::vector<std::span<std::byte>> rows;
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(ranks); ++rank) {
    rows.push_back(std::span(memory).subspan(rank * bytes, bytes));
  }
  return rows;
}

class ExchangeReduction final : public ExchangeOperation {
 public:
  ExchangeReduction(Transport& transport, Collective call)
      : ExchangeOperation(transport, fingerprint_of(call), call.tensor().nbytes(),
                          transport.chunk_bytes().step),
        call_(std::move(call)) {}

 private:
  bool start_step(int step, const Chunk& chunk) override {
    switch (step) {
      case 0:
        divide(bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes));
        swap_shares();
        return true;
      case 1:
        reduce_rows(call_, rows_, share_);
        spread();
        return true;
      default:
        return false;
    }
  }

  void divide(std::span<std::byte> bytes) {
    const std::size_t element_bytes = c10::elementSize(call_.dtype());
    const std::size_t elements = bytes.size() / element_bytes;
    const auto ranks = static_cast<std::size_t>(world_size());
    shares_.clear();
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      const std::size_t start = elements * peer / ranks;
      const std::size_t end = elements * (peer + 1) / ranks;
      shares_.push_back(bytes.subspan(start * element_bytes, (end - start) * element_bytes));
    }
    share_.resize(shares_[static_cast<std::size_t>(rank())].size());
  }

  void swap_shares() {
    exchange({.pattern = Exchange::Pattern::AllToAll,
              .sends = {shares_.begin(), shares_.end()},
              .receives = rows_in(rows_, share_.size(), world_size())});
  }

  void spread() {
    const auto ranks = static_cast<std::size_t>(world_size());
    const std::span<const std::byte> share(share_);
    if (call_.op == CollectiveOp::AllReduce) {
      exchange({.pattern = Exchange::Pattern::AllGather,
                .sends = std::vector(ranks, share),
                .receives = shares_});
      return;
    }
    Exchange gather{.pattern = Exchange::Pattern::Gather, .root = call_.root};
    gather.sends.resize(ranks);
    gather.sends[static_cast<std::size_t>(call_.root)] = share;
    gather.receives.resize(ranks);
    if (call_.root == rank()) gather.receives = shares_;
    exchange(gather);
  }

  Collective call_;
  std::vector<std::span<std::byte>> shares_;  // each rank's part of a chunk
  std::vector<std::byte> rows_;               // this rank's share, once a rank
  std::vector<std::byte> share_;              // reduced
};

class ExchangeReduceScatter final : public ExchangeOperation {
 public:
  ExchangeReduceScatter(Transport& transport, Collective call)
      : ExchangeOperation(transport, fingerprint_of(call), longest(call), chunk_of(transport)),
        call_(std::move(call)) {}

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.inputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }

  // `rows_` holds the chunks of all ranks at once.
  static std::size_t chunk_of(const Transport& transport) {
    const auto ranks = static_cast<std::size_t>(transport.world_size());
    return std::max<std::size_t>(64, transport.chunk_bytes().step / ranks / 64 * 64);
  }

  [[nodiscard]] std::span<std::byte> part(const at::Tensor& tensor, const Chunk& chunk) const {
    return part_of(bytes_of(tensor), round_of(chunk), chunk_bytes());
  }

  bool start_step(int step, const Chunk& chunk) override {
    const auto target = part(call_.outputs.front(), chunk);
    if (step == 1) {
      reduce_rows(call_, rows_, target);
      return false;
    }
    Exchange pieces;
    for (const at::Tensor& piece : call_.inputs) pieces.sends.push_back(part(piece, chunk));
    pieces.receives = rows_in(rows_, target.size(), world_size());
    exchange(pieces);
    return true;
  }

  Collective call_;
  std::vector<std::byte> rows_;
};

}  // namespace

std::unique_ptr<Operation> make_exchange_reduction(Transport& transport, Collective call) {
  return std::make_unique<ExchangeReduction>(transport, std::move(call));
}

std::unique_ptr<Operation> make_exchange_reduce_scatter(Transport& transport, Collective call) {
  return std::make_unique<ExchangeReduceScatter>(transport, std::move(call));
}

}  // namespace lockstep
