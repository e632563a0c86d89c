// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/gloo/operation.h"

namespace lockstep {
namespace {

class GlooBroadcast final : public GlooOperation {
 public:
  GlooBroadcast(GlooChannels& channels, Collective call)
      : GlooOperation(channels, fingerprint_of(call), call.tensor().nbytes()),
        call_(std::move(call)) {}

 private:
  Step start_step(int step, const Chunk& chunk) override {
    if (step != 0) return nullptr;
    return broadcast(bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes), call_.root);
  }

  Collective call_;
};

/// Everything else that only moves bytes: packed, an all-to-all of what each rank has for each
/// other, unpacked.
class GlooStreams final : public GlooOperation {
 public:
  GlooStreams(GlooChannels& channels, Collective call, Streams streams)
      : GlooOperation(channels, fingerprint_of(call), streams.longest),
        call_(std::move(call)),
        streams_(std::move(streams)) {}

 private:
  Step start_preparation(int step) override {
    if (!call_.has_own_sizes) return nullptr;
    const std::size_t numbers = 2 * static_cast<std::size_t>(world_size());
    if (step == 0) {
      own_lengths_ = lengths_of(streams_);
      lengths_.resize(numbers * static_cast<std::size_t>(world_size()));
      return all_gather(std::as_writable_bytes(std::span(lengths_)),
                        std::as_writable_bytes(std::span(own_lengths_)));
    }
    if (step == 1) {
      std::vector<std::span<const std::uint64_t>> rows;
      for (std::size_t start = 0; start < lengths_.size(); start += numbers) {
        rows.push_back(std::span(lengths_).subspan(start, numbers));
      }
      check_lengths(rows);
      // A rank may have nothing to send while others have: all go through as many chunks.
      set_bytes(*std::max_element(lengths_.begin(), lengths_.end()));
    }
    return nullptr;
  }

  // Of each stream at a time.
  [[nodiscard]] std::size_t chunk_bytes() const override {
    return GlooOperation::chunk_bytes() / static_cast<std::size_t>(world_size());
  }

  Step start_step(int step, const Chunk& chunk) override {
    const std::uint64_t round = chunk.start / chunk_bytes();
    if (step == 1) {
      unpack(round);
      return nullptr;
    }
    std::vector<std::int64_t> sent, received;
    std::size_t coming = 0;
    packed_.clear();
    for (int peer = 0; peer < world_size(); ++peer) {
      const auto source = is_read_by(peer) ? part_of(streams_.to(peer), round, chunk_bytes())
                                           : std::span<const std::byte>();
      const auto target = part_of(streams_.from(peer), round, chunk_bytes());
      packed_.insert(packed_.end(), source.begin(), source.end());
      sent.push_back(static_cast<std::int64_t>(source.size()));
      received.push_back(static_cast<std::int64_t>(target.size()));
      coming += target.size();
    }
    received_.resize(coming);
    return all_to_all(received_, packed_, received, sent);
  }

  void unpack(std::uint64_t round) {
    const std::byte* next = received_.data();
    for (int peer = 0; peer < world_size(); ++peer) {
      const auto target = part_of(streams_.from(peer), round, chunk_bytes());
      std::copy_n(next, target.size(), target.begin());
      next += target.size();
    }
  }

  [[nodiscard]] bool is_read_by(int peer) const {
    return call_.op != CollectiveOp::Gather || peer == call_.root;
  }

  Collective call_;
  Streams streams_;
  std::vector<std::uint64_t> own_lengths_, lengths_;
  std::vector<std::byte> packed_, received_;
};

/// The fingerprints alone: nobody gets through before everybody has come.
class GlooBarrier final : public GlooOperation {
 public:
  GlooBarrier(GlooChannels& channels, const Fingerprint& fingerprint)
      : GlooOperation(channels, fingerprint, 0) {}

 private:
  Step start_step(int, const Chunk&) override { return nullptr; }
};

}  // namespace

std::unique_ptr<Operation> make_gloo_barrier(GlooChannels& channels, std::size_t bytes) {
  Fingerprint fingerprint;
  fingerprint.elements = bytes;
  return std::make_unique<GlooBarrier>(channels, fingerprint);
}

std::unique_ptr<Operation> make_gloo_operation(GlooChannels& channels, Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      return make_gloo_reduction(channels, std::move(call));
    case CollectiveOp::ReduceScatter:
      return make_gloo_reduce_scatter(channels, std::move(call));
    case CollectiveOp::Broadcast:
      return std::make_unique<GlooBroadcast>(channels, std::move(call));
    case CollectiveOp::Barrier:
      return std::make_unique<GlooBarrier>(channels, fingerprint_of(call));
    default:
      auto streams = streams_of(call, channels.rank(), channels.size());
      return std::make_unique<GlooStreams>(channels, std::move(call), std::move(streams));
  }
}

}  // namespace lockstep
