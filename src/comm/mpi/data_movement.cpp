// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/mpi/operation.h"

namespace lockstep {
namespace {

using native::check_mpi;

constexpr int kMoveTag = 2;

class MpiBroadcast final : public MpiOperation {
 public:
  MpiBroadcast(MpiChannels& channels, Collective call)
      : MpiOperation(channels, fingerprint_of(call), call.tensor().nbytes()),
        call_(std::move(call)) {}

 private:
  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    if (step != 0) return false;
    auto* start = static_cast<std::byte*>(call_.tensor().data_ptr()) + chunk.start;
    check_mpi(
        MPI_Ibcast(start, to_mpi_count(chunk.bytes), MPI_BYTE, call_.root, data(), requests.add()),
        "MPI_Ibcast");
    return true;
  }

  Collective call_;
};

class MpiStreams final : public MpiOperation {
 public:
  MpiStreams(MpiChannels& channels, Collective call, Streams streams)
      : MpiOperation(channels, fingerprint_of(call), streams.longest),
        call_(std::move(call)),
        streams_(std::move(streams)) {}

 private:
  bool start_preparation(int step, native::MpiRequests& requests) override {
    if (!call_.has_own_sizes) {
      copy_own();
      return false;
    }
    const std::size_t numbers = 2 * static_cast<std::size_t>(world_size());
    if (step == 0) {
      own_lengths_ = lengths_of(streams_);
      lengths_.resize(numbers * static_cast<std::size_t>(world_size()));
      const int bytes = to_mpi_count(numbers * sizeof(lengths_[0]));
      check_mpi(MPI_Iallgather(own_lengths_.data(), bytes, MPI_BYTE, lengths_.data(), bytes,
                               MPI_BYTE, data(), requests.add()),
                "MPI_Iallgather");
      return true;
    }
    std::vector<std::span<const std::uint64_t>> rows;
    for (std::size_t start = 0; start < lengths_.size(); start += numbers) {
      rows.push_back(std::span(lengths_).subspan(start, numbers));
    }
    check_lengths(rows);
    copy_own();  // not before all sizes fit: a result stays as it was till then
    return false;
  }

  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    if (step != 0) return false;
    const std::uint64_t round = chunk.start / chunk_bytes();
    for (int peer = 0; peer < world_size(); ++peer) {
      const auto target = part_of(streams_.from(peer), round, chunk_bytes());
      if (target.empty() || !goes_through_mpi(peer)) continue;
      check_mpi(MPI_Irecv(target.data(), to_mpi_count(target.size()), MPI_BYTE, peer, kMoveTag,
                          data(), requests.add()),
                "MPI_Irecv");
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      const auto source = part_of(streams_.to(peer), round, chunk_bytes());
      if (source.empty() || !is_read_by(peer) || !goes_through_mpi(peer)) continue;
      check_mpi(MPI_Isend(source.data(), to_mpi_count(source.size()), MPI_BYTE, peer, kMoveTag,
                          data(), requests.add()),
                "MPI_Isend");
    }
    return true;
  }

  // What a rank sends to itself the CPU copies, if it can.
  void copy_own() {
    if (call_.device().is_cpu()) streams_.copy_own(rank());
  }
  [[nodiscard]] bool goes_through_mpi(int peer) const {
    if (peer != rank()) return true;
    return !call_.device().is_cpu() && streams_.from(peer).data() != streams_.to(peer).data();
  }

  [[nodiscard]] bool is_read_by(int peer) const {
    return call_.op != CollectiveOp::Gather || peer == call_.root;
  }

  Collective call_;
  Streams streams_;
  std::vector<std::uint64_t> own_lengths_, lengths_;
};

/// The exchange of fingerprints alone: nobody gets through before everybody has come.
class MpiBarrier final : public MpiOperation {
 public:
  MpiBarrier(MpiChannels& channels, const Fingerprint& fingerprint)
      : MpiOperation(channels, fingerprint, 0) {}

 private:
  bool start_step(int, const Chunk&, native::MpiRequests&) override { return false; }
};

}  // namespace

std::unique_ptr<Operation> make_mpi_barrier(MpiChannels& channels, std::size_t bytes) {
  Fingerprint fingerprint;
  fingerprint.elements = bytes;
  return std::make_unique<MpiBarrier>(channels, fingerprint);
}

std::unique_ptr<Operation> make_mpi_move(MpiChannels& channels, Collective call) {
  if (call.op == CollectiveOp::Broadcast) {
    return std::make_unique<MpiBroadcast>(channels, std::move(call));
  }
  auto streams = streams_of(call, channels.data.rank(), channels.data.size());
  return std::make_unique<MpiStreams>(channels, std::move(call), std::move(streams));
}

std::unique_ptr<Operation> make_mpi_operation(MpiChannels& channels, Collective call) {
  switch (call.op) {
    case CollectiveOp::AllReduce:
    case CollectiveOp::Reduce:
      return make_mpi_reduction(channels, std::move(call));
    case CollectiveOp::ReduceScatter:
      return make_mpi_reduce_scatter(channels, std::move(call));
    case CollectiveOp::Barrier:
      return std::make_unique<MpiBarrier>(channels, fingerprint_of(call));
    default:
      return make_mpi_move(channels, std::move(call));
  }
}

}  // namespace lockstep
