// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory_operations.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/reduce_kernels.h"
#include "comm/shared_memory_operation.h"

namespace lockstep {
namespace {

// Up to here every rank reducing everything beats a second meeting.
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

std::byte* bytes_of(const at::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

std::uint64_t chunks_of(const at::Tensor& tensor, const SharedMemoryTransport& transport) {
  return (tensor.nbytes() + transport.slot_bytes() - 1) / transport.slot_bytes();
}

/// The bytes of chunk `round` of a staged tensor. Slots are whole pages, so that no element is cut.
Range chunk_of(const at::Tensor& tensor, const SharedMemoryTransport& transport,
               std::uint64_t round) {
  const std::size_t start = static_cast<std::size_t>(round) * transport.slot_bytes();
  return {start, std::min(transport.slot_bytes(), tensor.nbytes() - start)};
}

class InPlaceAllReduce final : public SharedMemoryOperation {
 public:
  InPlaceAllReduce(SharedMemoryTransport& transport, at::Tensor tensor, ReduceOp op,
                   SharedMemoryTransport::Place place)
      : SharedMemoryOperation(transport, in_place(tensor, op, place),
                              {.rounds = 1, .is_staged = false, .is_two_phase = true}),
        tensor_(std::move(tensor)),
        op_(op),
        place_(std::move(place)) {}

 private:
  static Fingerprint in_place(const at::Tensor& tensor, ReduceOp op,
                              const SharedMemoryTransport::Place& place) {
    Fingerprint print = fingerprint_of_all_reduce(tensor, op);
    print.placement = 1;
    print.place = place.number;
    return print;
  }

  void act(std::uint64_t) override {
    const std::size_t element = element_bytes(tensor_);
    const int world_size = transport().world_size();
    const Range share = share_of(static_cast<std::size_t>(tensor_.numel()), element,
                                 transport().rank(), world_size);
    std::vector<void*> blocks;
    for (int rank = 0; rank < world_size; ++rank) {
      blocks.push_back(place_.of(rank) + share.start * element);
    }
    const std::vector<const void*> inputs(blocks.begin(), blocks.end());
    reduce_ranks(tensor_.scalar_type(), op_, inputs, blocks, share.count);
  }

  at::Tensor tensor_;
  ReduceOp op_;
  SharedMemoryTransport::Place place_;
};

class StagedAllReduce final : public SharedMemoryOperation {
 public:
  StagedAllReduce(SharedMemoryTransport& transport, at::Tensor tensor, ReduceOp op)
      : SharedMemoryOperation(transport, fingerprint_of_all_reduce(tensor, op),
                              {.rounds = chunks_of(tensor, transport),
                               .is_staged = true,
                               .is_two_phase = tensor.nbytes() > kSmallBytes}),
        tensor_(std::move(tensor)),
        op_(op),
        is_small_(tensor_.nbytes() <= kSmallBytes) {}

 private:
  void offer(std::uint64_t round) override {
    const Range chunk = chunk_of(tensor_, transport(), round);
    std::memcpy(slot(transport().rank()), bytes_of(tensor_) + chunk.start, chunk.count);
  }

  void act(std::uint64_t round) override {
    const Range chunk = chunk_of(tensor_, transport(), round);
    const std::size_t element = element_bytes(tensor_);
    const Range share = is_small_ ? Range{0, chunk.count / element}
                                  : share_of(chunk.count / element, element, transport().rank(),
                                             transport().world_size());
    std::vector<const void*> inputs;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      inputs.push_back(slot(rank) + share.start * element);
    }
    // Only this rank reads its share of any slot, so that the sum can stand in its own.
    void* output = is_small_ ? bytes_of(tensor_) + chunk.start
                             : slot(transport().rank()) + share.start * element;
    reduce_ranks(tensor_.scalar_type(), op_, inputs, std::span(&output, 1), share.count);
  }

  void conclude(std::uint64_t round) override {
    if (is_small_) return;
    const Range chunk = chunk_of(tensor_, transport(), round);
    const std::size_t element = element_bytes(tensor_);
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      const Range share = share_of(chunk.count / element, element, rank, transport().world_size());
      std::memcpy(bytes_of(tensor_) + chunk.start + share.start * element,
                  slot(rank) + share.start * element, share.count * element);
    }
  }

  at::Tensor tensor_;
  ReduceOp op_;
  bool is_small_;
};

class StagedBroadcast final : public SharedMemoryOperation {
 public:
  StagedBroadcast(SharedMemoryTransport& transport, at::Tensor tensor, int root)
      : SharedMemoryOperation(
            transport, fingerprint_of_broadcast(tensor, root),
            {.rounds = chunks_of(tensor, transport), .is_staged = true, .is_two_phase = false}),
        tensor_(std::move(tensor)),
        root_(root) {}

 private:
  void offer(std::uint64_t round) override {
    if (transport().rank() != root_) return;
    const Range chunk = chunk_of(tensor_, transport(), round);
    std::memcpy(slot(root_), bytes_of(tensor_) + chunk.start, chunk.count);
  }

  void act(std::uint64_t round) override {
    if (transport().rank() == root_) return;
    const Range chunk = chunk_of(tensor_, transport(), round);
    std::memcpy(bytes_of(tensor_) + chunk.start, slot(root_), chunk.count);
  }

  at::Tensor tensor_;
  int root_;
};

class StagedAllGather final : public SharedMemoryOperation {
 public:
  StagedAllGather(SharedMemoryTransport& transport, std::vector<at::Tensor> outputs,
                  at::Tensor input)
      : SharedMemoryOperation(
            transport, fingerprint_of(CollectiveOp::AllGather, input),
            {.rounds = chunks_of(input, transport), .is_staged = true, .is_two_phase = false}),
        outputs_(std::move(outputs)),
        input_(std::move(input)) {}

 private:
  void offer(std::uint64_t round) override {
    const Range chunk = chunk_of(input_, transport(), round);
    std::memcpy(slot(transport().rank()), bytes_of(input_) + chunk.start, chunk.count);
  }

  void act(std::uint64_t round) override {
    const Range chunk = chunk_of(input_, transport(), round);
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      std::memcpy(bytes_of(outputs_[static_cast<std::size_t>(rank)]) + chunk.start, slot(rank),
                  chunk.count);
    }
  }

  std::vector<at::Tensor> outputs_;
  at::Tensor input_;
};

class Barrier final : public SharedMemoryOperation {
 public:
  Barrier(SharedMemoryTransport& transport, std::size_t bytes)
      : SharedMemoryOperation(transport, of_bytes(bytes), {}) {}

 private:
  static Fingerprint of_bytes(std::size_t bytes) {
    Fingerprint print;
    print.elements = bytes;
    return print;
  }
};

}  // namespace

std::unique_ptr<Operation> make_shared_memory_all_reduce(SharedMemoryTransport& transport,
                                                         at::Tensor tensor, ReduceOp op) {
  if (auto place = transport.find(tensor)) {
    return std::make_unique<InPlaceAllReduce>(transport, std::move(tensor), op, std::move(*place));
  }
  return std::make_unique<StagedAllReduce>(transport, std::move(tensor), op);
}

std::unique_ptr<Operation> make_shared_memory_broadcast(SharedMemoryTransport& transport,
                                                        at::Tensor tensor, int root) {
  return std::make_unique<StagedBroadcast>(transport, std::move(tensor), root);
}

std::unique_ptr<Operation> make_shared_memory_all_gather(SharedMemoryTransport& transport,
                                                         std::vector<at::Tensor> outputs,
                                                         at::Tensor input) {
  return std::make_unique<StagedAllGather>(transport, std::move(outputs), std::move(input));
}

std::unique_ptr<Operation> make_shared_memory_barrier(SharedMemoryTransport& transport,
                                                      std::size_t bytes) {
  return std::make_unique<Barrier>(transport, bytes);
}

}  // namespace lockstep
