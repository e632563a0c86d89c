// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/mpi/operation.h"

namespace lockstep {
namespace {

using native::check_mpi;

constexpr int kReductionTag = 1;

/// What ranks sent for the same place, one after the other in `scratch`, into `target`.
void reduce_rows(const Collective& call, const std::vector<std::byte>& scratch,
                 std::span<std::byte> target) {
  std::vector<const void*> inputs;
  for (std::size_t start = 0; start < scratch.size(); start += target.size()) {
    inputs.push_back(scratch.data() + start);
  }
  void* output = target.data();
  reduce_ranks(call.dtype(), call.reduce_op, inputs, std::span(&output, 1),
               target.size() / c10::elementSize(call.dtype()));
}

class MpiReduction final : public MpiOperation {
 public:
  MpiReduction(MpiChannels& channels, Collective call)
      : MpiOperation(channels, fingerprint_of(call), call.tensor().nbytes()),
        call_(std::move(call)),
        counts_(static_cast<std::size_t>(world_size())),
        offsets_(counts_.size()),
        own_counts_(counts_.size()),
        own_offsets_(counts_.size()) {}

 private:
  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    std::byte* start = bytes_of(call_.tensor()).data() + chunk.start;
    switch (step) {
      case 0:
        plan(chunk.bytes);

        scratch_ = std::vector<std::byte>(own_bytes() * counts_.size());
        check_mpi(MPI_Ialltoallv(start, counts_.data(), offsets_.data(), MPI_BYTE, scratch_.data(),
                                 own_counts_.data(), own_offsets_.data(), MPI_BYTE, data(),
                                 requests.add()),
                  "MPI_Ialltoallv");
        return true;
      case 1:
        share_.resize(own_bytes());
        if (!share_.empty()) reduce_rows(call_, scratch_, share_);
        spread(start, requests);
        return true;
      default:
        return false;
    }
  }

  void spread(std::byte* start, native::MpiRequests& requests) {
    if (call_.op == CollectiveOp::AllReduce) {
      check_mpi(MPI_Iallgatherv(share_.data(), to_mpi_count(share_.size()), MPI_BYTE, start,
                                counts_.data(), offsets_.data(), MPI_BYTE, data(), requests.add()),
                "MPI_Iallgatherv");
    } else {
      check_mpi(
          MPI_Igatherv(share_.data(), to_mpi_count(share_.size()), MPI_BYTE, start, counts_.data(),
                       offsets_.data(), MPI_BYTE, call_.root, data(), requests.add()),
          "MPI_Igatherv");
    }
  }

  [[nodiscard]] std::size_t own_bytes() const {
    return static_cast<std::size_t>(counts_[static_cast<std::size_t>(rank())]);
  }

  void plan(std::size_t bytes) {
    const std::size_t element_bytes = c10::elementSize(call_.dtype());
    const std::size_t elements = bytes / element_bytes;
    const std::size_t ranks = counts_.size();
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      const std::size_t start = elements * peer / ranks;
      offsets_[peer] = to_mpi_count(start * element_bytes);
      counts_[peer] = to_mpi_count((elements * (peer + 1) / ranks - start) * element_bytes);
    }
    for (std::size_t peer = 0; peer < ranks; ++peer) {
      own_counts_[peer] = to_mpi_count(own_bytes());
      own_offsets_[peer] = to_mpi_count(own_bytes() * peer);
    }
  }

  Collective call_;
  std::vector<int> counts_, offsets_;          // each rank's share of a chunk
  std::vector<int> own_counts_, own_offsets_;  // this rank's share, once a rank, in scratch_
  std::vector<std::byte> scratch_;
  std::vector<std::byte> share_;
};

class MpiReduceScatter final : public MpiOperation {
 public:
  MpiReduceScatter(MpiChannels& channels, Collective call)
      : MpiOperation(channels, fingerprint_of(call), longest(call)), call_(std::move(call)) {}

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.inputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }

  // All ranks' chunks of one piece lie here at once.
  [[nodiscard]] std::size_t chunk_bytes() const override {
    return std::max<std::size_t>(
        64, MpiOperation::chunk_bytes() / static_cast<std::size_t>(world_size()) / 64 * 64);
  }

  [[nodiscard]] std::span<std::byte> part(const at::Tensor& tensor, const Chunk& chunk) const {
    return part_of(bytes_of(tensor), chunk.start / chunk_bytes(), chunk_bytes());
  }

  bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) override {
    const auto target = part(call_.outputs.front(), chunk);
    if (step == 1) {
      if (!target.empty()) reduce_rows(call_, scratch_, target);
      return false;
    }
    scratch_.resize(target.size() * call_.inputs.size());
    for (int peer = 0; peer < world_size() && !target.empty(); ++peer) {
      check_mpi(MPI_Irecv(scratch_.data() + static_cast<std::size_t>(peer) * target.size(),
                          to_mpi_count(target.size()), MPI_BYTE, peer, kReductionTag, data(),
                          requests.add()),
                "MPI_Irecv");
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      const auto source = part(call_.inputs[static_cast<std::size_t>(peer)], chunk);
      if (source.empty()) continue;
      check_mpi(MPI_Isend(source.data(), to_mpi_count(source.size()), MPI_BYTE, peer, kReductionTag,
                          data(), requests.add()),
                "MPI_Isend");
    }
    return true;
  }

  Collective call_;
  std::vector<std::byte> scratch_;
};

}  // namespace

std::unique_ptr<Operation> make_mpi_reduction(MpiChannels& channels, Collective call) {
  return std::make_unique<MpiReduction>(channels, std::move(call));
}

std::unique_ptr<Operation> make_mpi_reduce_scatter(MpiChannels& channels, Collective call) {
  return std::make_unique<MpiReduceScatter>(channels, std::move(call));
}

}  // namespace lockstep
