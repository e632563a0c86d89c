// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/gloo/operation.h"

namespace lockstep {
namespace {

/// What ranks sent for the same place, one after the other in `rows`, into `target`.
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

class GlooReduction final : public GlooOperation {
 public:
  GlooReduction(GlooChannels& channels, Collective call)
      : GlooOperation(channels, fingerprint_of(call), call.tensor().nbytes()),
        call_(std::move(call)) {}

 private:
  // All shares are equally long, the last ones filled up: gloo gathers nothing else.
  Step start_step(int step, const Chunk& chunk) override {
    const auto target = bytes_of(call_.tensor()).subspan(chunk.start, chunk.bytes);
    switch (step) {
      case 0:
        plan(chunk.bytes);
        std::copy(target.begin(), target.end(), all_.begin());
        return all_to_all(rows_, all_);
      case 1:
        reduce_rows(call_, rows_, share_);
        return spread();
      default:
        if (call_.op == CollectiveOp::AllReduce || call_.root == rank()) {
          std::copy_n(all_.begin(), target.size(), target.begin());
        }
        return nullptr;
    }
  }

  void plan(std::size_t bytes) {
    const std::size_t element = c10::elementSize(call_.dtype());
    const auto ranks = static_cast<std::size_t>(world_size());
    share_.resize((bytes / element + ranks - 1) / ranks * element);
    all_.assign(share_.size() * ranks, std::byte{0});
    rows_.resize(all_.size());
  }

  Step spread() {
    if (call_.op == CollectiveOp::AllReduce) return all_gather(all_, share_);
    const auto ranks = static_cast<std::size_t>(world_size());
    const auto bytes = static_cast<std::int64_t>(share_.size());
    std::vector<std::int64_t> sent(ranks, 0);
    sent[static_cast<std::size_t>(call_.root)] = bytes;
    const bool is_root = call_.root == rank();
    const std::vector<std::int64_t> received(ranks, is_root ? bytes : 0);
    return all_to_all(is_root ? std::span(all_) : std::span<std::byte>(), share_, received, sent);
  }

  Collective call_;
  std::vector<std::byte> all_;    // the chunk, filled up to equal shares
  std::vector<std::byte> rows_;   // this rank's share, once a rank
  std::vector<std::byte> share_;  // reduced
};

class GlooReduceScatter final : public GlooOperation {
 public:
  GlooReduceScatter(GlooChannels& channels, Collective call)
      : GlooOperation(channels, fingerprint_of(call), longest(call)), call_(std::move(call)) {}

 private:
  static std::size_t longest(const Collective& call) {
    std::size_t bytes = 0;
    for (const at::Tensor& piece : call.inputs) bytes = std::max(bytes, piece.nbytes());
    return bytes;
  }

  // A chunk of every piece at a time.
  [[nodiscard]] std::size_t chunk_bytes() const override {
    return std::max<std::size_t>(
        64, GlooOperation::chunk_bytes() / static_cast<std::size_t>(world_size()) / 64 * 64);
  }

  Step start_step(int step, const Chunk& chunk) override {
    const std::uint64_t round = chunk.start / chunk_bytes();
    const auto target = part_of(bytes_of(call_.outputs.front()), round, chunk_bytes());
    if (step == 1) {
      reduce_rows(call_, rows_, target);
      return nullptr;
    }
    std::vector<std::int64_t> sent;
    packed_.clear();
    for (const at::Tensor& piece : call_.inputs) {
      const auto source = part_of(bytes_of(piece), round, chunk_bytes());
      packed_.insert(packed_.end(), source.begin(), source.end());
      sent.push_back(static_cast<std::int64_t>(source.size()));
    }
    const auto ranks = static_cast<std::size_t>(world_size());
    rows_.resize(target.size() * ranks);
    return all_to_all(rows_, packed_,
                      std::vector<std::int64_t>(ranks, static_cast<std::int64_t>(target.size())),
                      sent);
  }

  Collective call_;
  std::vector<std::byte> packed_;
  std::vector<std::byte> rows_;
};

}  // namespace

std::unique_ptr<Operation> make_gloo_reduction(GlooChannels& channels, Collective call) {
  return std::make_unique<GlooReduction>(channels, std::move(call));
}

std::unique_ptr<Operation> make_gloo_reduce_scatter(GlooChannels& channels, Collective call) {
  return std::make_unique<GlooReduceScatter>(channels, std::move(call));
}

}  // namespace lockstep
