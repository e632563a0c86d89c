// SPDX-License-Identifier: BSD-3-Clause
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/operation.h"
#include "comm/exchange/operations.h"
#include "comm/exchange/stream_lengths.h"

namespace lockstep {
namespace {

class ExchangeBroadcast final : public ExchangeOperation {
 public:
  ExchangeBroadcast(Transport& transport, Collective call)
      : ExchangeOperation(transport, fingerprint_of(call), call.tensor().nbytes(),
                          transport.chunk_bytes().step),
        call_(std::move(call)) {}

 private:
  bool start_step(int step, const Chunk& chunk) override {
    if (step != 0) return false;
    const auto bytes = bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes);
    const auto ranks = static_cast<std::size_t>(world_size());
    Exchange broadcast{.pattern = Exchange::Pattern::Broadcast,
                       .root = call_.root,
                       .is_on_host = call_.device().is_cpu()};
    broadcast.sends.resize(ranks);
    if (rank() == call_.root) broadcast.sends.assign(ranks, bytes);
    broadcast.receives.resize(ranks);
    broadcast.receives[static_cast<std::size_t>(call_.root)] = bytes;
    exchange(broadcast);
    return true;
  }

  Collective call_;
};

/// All other data movement.
class ExchangeStreams final : public ExchangeOperation {
 public:
  ExchangeStreams(Transport& transport, Collective call, Streams streams)
      : ExchangeOperation(transport, fingerprint_of(call), streams.longest,
                          transport.chunk_bytes().stream),
        call_(std::move(call)),
        streams_(std::move(streams)) {}

 private:
  bool start_preparation(int step) override {
    if (!call_.has_own_sizes) return false;
    if (step == 0) {
      exchange(lengths_.gather(streams_, world_size()));
      return true;
    }
    // A rank may have nothing to send while others have: all go through as many chunks.
    set_bytes(lengths_.check());
    return false;
  }

  bool start_step(int step, const Chunk& chunk) override {
    if (step != 0) return false;
    const std::uint64_t round = round_of(chunk);
    Exchange parts{.is_on_host = call_.device().is_cpu()};
    for (int peer = 0; peer < world_size(); ++peer) {
      parts.sends.push_back(is_read_by(peer) ? part_of(streams_.to(peer), round, chunk_bytes())
                                             : std::span<const std::byte>());
      parts.receives.push_back(part_of(streams_.from(peer), round, chunk_bytes()));
    }
    exchange(parts);
    return true;
  }

  [[nodiscard]] bool is_read_by(int peer) const {
    return call_.op != CollectiveOp::Gather || peer == call_.root;
  }

  Collective call_;
  Streams streams_;
  StreamLengths lengths_;
};

/// Exchanges the fingerprints alone: no rank gets through before all have come.
class ExchangeBarrier final : public ExchangeOperation {
 public:
  ExchangeBarrier(Transport& transport, const Fingerprint& fingerprint)
      : ExchangeOperation(transport, fingerprint, 0, transport.chunk_bytes().step) {}

 private:
  bool start_step(int, const Chunk&) override { return false; }
};

}  // namespace

std::unique_ptr<Operation> make_exchange_barrier(Transport& transport, std::size_t bytes) {
  Fingerprint fingerprint;
  fingerprint.elements = bytes;
  return std::make_unique<ExchangeBarrier>(transport, fingerprint);
}

std::unique_ptr<Operation> make_exchange_data_movement(Transport& transport, Collective call) {
  if (call.op == CollectiveOp::Broadcast) {
    return std::make_unique<ExchangeBroadcast>(transport, std::move(call));
  }
  auto streams = streams_of(call, transport.rank(), transport.world_size());
  return std::make_unique<ExchangeStreams>(transport, std::move(call), std::move(streams));
}

std::unique_ptr<Operation> make_exchange_operation(Transport& transport, Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      return make_exchange_reduction(transport, std::move(call));
    case CollectiveOp::ReduceScatter:
      return make_exchange_reduce_scatter(transport, std::move(call));
    case CollectiveOp::Barrier:
      return std::make_unique<ExchangeBarrier>(transport, fingerprint_of(call));
    default:
      return make_exchange_data_movement(transport, std::move(call));
  }
}

}  // namespace lockstep
