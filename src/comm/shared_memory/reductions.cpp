// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/shared_memory/operation.h"
#include "comm/shared_memory/operations.h"

namespace lockstep {
namespace {

// Up to here every rank reducing everything beats a second synchronisation step.
constexpr std::size_t kSmallBytes = 16 << 10;
constexpr std::size_t kCacheLine = 64;

struct Range {
  std::size_t start = 0;
  std::size_t count = 0;
};

/// The part of `count` elements that falls to `rank`; shares begin on cache lines, so that no two
/// ranks write one.
Range share_of(std::size_t count, std::size_t element_bytes, int rank, int world_size) {
  const std::size_t step = std::max<std::size_t>(1, kCacheLine / element_bytes);
  const std::size_t lines = (count + step - 1) / step;
  const auto ranks = static_cast<std::size_t>(world_size);
  const auto own = static_cast<std::size_t>(rank);
  const std::size_t start = std::min(count, lines * own / ranks * step);
  const std::size_t end = std::min(count, lines * (own + 1) / ranks * step);
  return {start, end - start};
}

std::size_t element_bytes(const at::Tensor& tensor) {
  return static_cast<std::size_t>(tensor.element_size());
}

// A tensor without elements has no memory, and memcpy must not be called with a null pointer.
void copy_bytes(std::byte* target, const std::byte* source, std::size_t bytes) {
  if (bytes != 0) std::memcpy(target, source, bytes);
}

std::uint64_t chunks_of(const at::Tensor& tensor, const SharedMemoryTransport& transport) {
  const std::size_t chunks =
      (tensor.nbytes() + transport.slot_bytes() - 1) / transport.slot_bytes();
  return std::max<std::uint64_t>(1, chunks);
}

/// The bytes of chunk `round` of a staged tensor. Slots are whole pages, so that no element is cut.
Range chunk_of(const at::Tensor& tensor, const SharedMemoryTransport& transport,
               std::uint64_t round) {
  const std::size_t start = static_cast<std::size_t>(round) * transport.slot_bytes();
  return {start, std::min(transport.slot_bytes(), tensor.nbytes() - start)};
}

class InPlaceReduction final : public SharedMemoryOperation {
 public:
  InPlaceReduction(SharedMemoryTransport& transport, Collective call,
                   SharedMemoryTransport::Place place)
      : SharedMemoryOperation(transport, in_place(call, place),
                              {.rounds = 1, .is_staged = false, .is_two_phase = true}),
        call_(std::move(call)),
        place_(std::move(place)) {}

 private:
  static Fingerprint in_place(const Collective& call, const SharedMemoryTransport::Place& place) {
    Fingerprint print = lockstep::fingerprint_of(call);
    print.is_registered = 1;
    print.place = place.number;
    return print;
  }

  void act(std::uint64_t) override {
    const std::size_t element = element_bytes(call_.tensor());
    const Range share = share_of(static_cast<std::size_t>(call_.tensor().numel()), element,
                                 transport().rank(), transport().world_size());
    c10::SmallVector<const void*, 16> inputs;
    c10::SmallVector<void*, 16> outputs;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      std::byte* block = place_.of(rank) + share.start * element;
      inputs.push_back(block);
      if (call_.op == CollectiveOp::AllReduce || rank == call_.root) outputs.push_back(block);
    }
    reduce_ranks(call_.dtype(), call_.reduce_op, inputs, outputs, share.count);
  }

  Collective call_;
  SharedMemoryTransport::Place place_;
};

/// Reduces blocks whose displacements differ between ranks, as if the blocks stood in a row, each
/// beginning on a cache line.
class IndexedReduction final : public SharedMemoryOperation {
 public:
  IndexedReduction(SharedMemoryTransport& transport, Collective call,
                   SharedMemoryTransport::Place buffer, SharedMemoryTransport::Place displacements)
      : SharedMemoryOperation(transport, fingerprint_of_blocks(call, buffer, displacements),
                              {.rounds = 1, .is_staged = false, .is_two_phase = true}),
        call_(std::move(call)),
        buffer_(std::move(buffer)),
        displacements_(std::move(displacements)) {}

 private:
  static Fingerprint fingerprint_of_blocks(const Collective& call,
                                           const SharedMemoryTransport::Place& buffer,
                                           const SharedMemoryTransport::Place& displacements) {
    Fingerprint print = lockstep::fingerprint_of(call);
    print.is_registered = 1;
    print.place = buffer.number;
    print.details = mix(print.details, displacements.number);
    return print;
  }

  void act(std::uint64_t) override {
    const std::size_t step = std::max<std::size_t>(1, kCacheLine / element_bytes(call_.tensor()));
    const auto in_lines = [step](std::size_t count) { return (count + step - 1) / step * step; };
    std::size_t all = 0;
    for (const auto count : call_.block_counts) all += in_lines(static_cast<std::size_t>(count));
    const Range share =
        share_of(all, element_bytes(call_.tensor()), transport().rank(), transport().world_size());
    std::size_t begin = 0;  // of the block, in the row
    for (std::size_t block = 0; block < call_.block_counts.size(); ++block) {
      const auto count = static_cast<std::size_t>(call_.block_counts[block]);
      const std::size_t first = std::max(begin, share.start);
      const std::size_t last = std::min(begin + count, share.start + share.count);
      if (first < last) reduce(block, {first - begin, last - first});
      begin += in_lines(count);
    }
  }

  /// `range`: within that block.
  void reduce(std::size_t block, Range range) {
    const std::size_t element = element_bytes(call_.tensor());
    c10::SmallVector<const void*, 16> inputs;
    c10::SmallVector<void*, 16> outputs;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      const auto begin = reinterpret_cast<const std::int64_t*>(displacements_.of(rank))[block];
      std::byte* values =
          buffer_.of(rank) + (static_cast<std::size_t>(begin) + range.start) * element;
      inputs.push_back(values);
      outputs.push_back(values);
    }
    reduce_ranks(call_.dtype(), call_.reduce_op, inputs, outputs, range.count);
  }

  Collective call_;
  SharedMemoryTransport::Place buffer_;
  SharedMemoryTransport::Place displacements_;
};

class StagedReduction final : public SharedMemoryOperation {
 public:
  StagedReduction(SharedMemoryTransport& transport, Collective call)
      : SharedMemoryOperation(transport, lockstep::fingerprint_of(call),
                              {.rounds = chunks_of(call.tensor(), transport),
                               .is_staged = true,
                               .is_two_phase = call.tensor().nbytes() > kSmallBytes}),
        call_(std::move(call)),
        is_small_(tensor().nbytes() <= kSmallBytes),
        wants_result_(call_.op == CollectiveOp::AllReduce || transport.rank() == call_.root) {}

 private:
  [[nodiscard]] const at::Tensor& tensor() const { return call_.tensor(); }

  void offer(std::uint64_t round) override {
    const Range chunk = chunk_of(tensor(), transport(), round);
    copy_bytes(slot(transport().rank()), bytes_of(tensor()).data() + chunk.start, chunk.count);
  }

  void act(std::uint64_t round) override {
    if (is_small_ && !wants_result_) return;
    const Range chunk = chunk_of(tensor(), transport(), round);
    const std::size_t element = element_bytes(tensor());
    const Range share = is_small_ ? Range{0, chunk.count / element}
                                  : share_of(chunk.count / element, element, transport().rank(),
                                             transport().world_size());
    c10::SmallVector<const void*, 16> inputs;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      inputs.push_back(slot(rank) + share.start * element);
    }
    // Only this rank reads its share of any slot, so that the sum can stand in its own.
    void* output = is_small_ ? bytes_of(tensor()).data() + chunk.start
                             : slot(transport().rank()) + share.start * element;
    reduce_ranks(call_.dtype(), call_.reduce_op, inputs, std::span(&output, 1), share.count);
  }

  void conclude(std::uint64_t round) override {
    if (is_small_ || !wants_result_) return;
    const Range chunk = chunk_of(tensor(), transport(), round);
    const std::size_t element = element_bytes(tensor());
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      const Range share = share_of(chunk.count / element, element, rank, transport().world_size());
      copy_bytes(bytes_of(tensor()).data() + chunk.start + share.start * element,
                 slot(rank) + share.start * element, share.count * element);
    }
  }

  Collective call_;
  bool is_small_;
  bool wants_result_;
};

}  // namespace

std::unique_ptr<Operation> make_shared_memory_reduction(SharedMemoryTransport& transport,
                                                        Collective call) {
  if (call.displacements.defined()) {
    auto buffer = transport.find(call.tensor().const_data_ptr(), call.tensor().nbytes(),
                                 SharedMemoryTransport::Layout::Indexed);
    auto displacements =
        transport.find(call.displacements.const_data_ptr(), call.displacements.nbytes());
    TORCH_INTERNAL_ASSERT(buffer && displacements);
    return std::make_unique<IndexedReduction>(transport, std::move(call), std::move(*buffer),
                                              std::move(*displacements));
  }
  if (auto place = transport.find(call.tensor().const_data_ptr(), call.tensor().nbytes())) {
    return std::make_unique<InPlaceReduction>(transport, std::move(call), std::move(*place));
  }
  return std::make_unique<StagedReduction>(transport, std::move(call));
}

}  // namespace lockstep
