// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/collective/tensor_bytes.h"
#include "comm/shared_memory/operation.h"
#include "comm/shared_memory/operations.h"

namespace lockstep {
namespace {

/// Collectives in which a rank reads what the others offer, and writes to its own memory alone.
/// When the input of all ranks lies at the same place of registered memory, it is read there, in
/// one round; else it passes through the slots. A rank cannot know beforehand where the others'
/// inputs lie: the fingerprints of the first round tell it. Where some lie elsewhere, the first
/// round is wasted for the others.
class ReadingOperation : public SharedMemoryOperation {
 public:
  ReadingOperation(SharedMemoryTransport& transport, const Collective& call,
                   std::optional<SharedMemoryTransport::Place> place)
      : SharedMemoryOperation(transport, with_place(call, place),
                              {.is_open_ended = true, .is_place_fixed = false}),
        place_(std::move(place)) {}

 protected:
  virtual void put(std::uint64_t chunk) = 0;
  virtual void take(std::uint64_t chunk) = 0;
  virtual void take_in_place(const SharedMemoryTransport::Place& place) = 0;
  /// How many chunks all ranks need; called once the headers have been read.
  [[nodiscard]] virtual std::uint64_t chunks() const = 0;

  // A header goes a round ahead of the data, with what ranks must tell each other first.
  [[nodiscard]] virtual bool has_header() const { return false; }
  virtual void put_header() {}
  virtual void read_headers() {}

 private:
  static Fingerprint with_place(const Collective& call,
                                const std::optional<SharedMemoryTransport::Place>& place) {
    Fingerprint print = lockstep::fingerprint_of(call);
    if (place) {
      print.is_registered = 1;
      print.place = place->number;
    }
    return print;
  }

  void offer(std::uint64_t round) final {
    if (round > 0) return put(round - first_chunk_);
    if (has_header()) return put_header();
    if (!place_) put(0);
  }

  void act(std::uint64_t round) final {
    if (round == 0 && !decide()) return;
    if (is_in_place_) return take_in_place(*place_);
    take(round - first_chunk_);
  }

  /// False when this round was only to find out.
  bool decide() {
    int registered = 0;
    bool is_one_place = true;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      const Fingerprint print = fingerprint_of(rank);
      registered += print.is_registered;
      is_one_place = is_one_place && print.place == fingerprint_of(0).place;
    }
    is_in_place_ = is_one_place && registered == transport().world_size();
    if (is_in_place_) {
      set_shape(1, true);
      return true;
    }
    if (has_header()) read_headers();
    first_chunk_ = has_header() || registered > 0 ? 1 : 0;
    const std::uint64_t staged = chunks();
    set_shape(first_chunk_ + (first_chunk_ == 0 ? std::max<std::uint64_t>(1, staged) : staged),
              false);
    return first_chunk_ == 0;
  }

  std::optional<SharedMemoryTransport::Place> place_;
  bool is_in_place_ = false;
  std::uint64_t first_chunk_ = 0;
};

std::uint64_t count_chunks(std::size_t bytes, std::size_t chunk_bytes) {
  return (bytes + chunk_bytes - 1) / chunk_bytes;
}

class DataMovement final : public ReadingOperation {
 public:
  DataMovement(SharedMemoryTransport& transport, Collective call, Streams streams,
               std::optional<SharedMemoryTransport::Place> place)
      : ReadingOperation(transport, call, std::move(place)),
        call_(std::move(call)),
        streams_(std::move(streams)) {}

 private:
  [[nodiscard]] std::size_t chunk_bytes() const {
    return streams_.is_multicast ? transport().slot_bytes() : transport().part_bytes();
  }
  [[nodiscard]] std::uint64_t chunks() const override {
    return count_chunks(streams_.longest, chunk_bytes());
  }

  void put(std::uint64_t chunk) override {
    std::byte* own = slot(transport().rank());
    if (streams_.is_multicast) {
      copy(own, part_of(streams_.sends[0], chunk, chunk_bytes()));
      return;
    }
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      if (rank == transport().rank()) continue;
      copy(own + static_cast<std::size_t>(rank) * chunk_bytes(),
           part_of(streams_.to(rank), chunk, chunk_bytes()));
    }
  }

  void take(std::uint64_t chunk) override {
    if (chunk == 0) streams_.copy_own(transport().rank());
    const std::size_t offset =
        streams_.is_multicast ? 0 : static_cast<std::size_t>(transport().rank()) * chunk_bytes();
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      if (rank == transport().rank()) continue;
      const auto target = part_of(streams_.from(rank), chunk, chunk_bytes());
      if (!target.empty()) std::memcpy(target.data(), slot(rank) + offset, target.size());
    }
  }

  void take_in_place(const SharedMemoryTransport::Place& place) override {
    streams_.copy_own(transport().rank());
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      if (rank == transport().rank()) continue;
      const auto target = streams_.from(rank);
      // The pieces of an all_to_all lie side by side, and are equally long.
      const std::size_t offset =
          streams_.is_multicast ? 0 : static_cast<std::size_t>(transport().rank()) * target.size();
      if (!target.empty()) std::memcpy(target.data(), place.of(rank) + offset, target.size());
    }
  }

  [[nodiscard]] bool has_header() const override { return call_.has_own_sizes; }
  void put_header() override {
    const auto lengths = lengths_of(streams_);
    std::memcpy(slot(transport().rank()), lengths.data(), lengths.size() * sizeof(lengths[0]));
  }
  void read_headers() override {
    const std::size_t numbers = 2 * static_cast<std::size_t>(transport().world_size());
    std::vector<std::span<const std::uint64_t>> rows;
    for (int rank = 0; rank < transport().world_size(); ++rank) {
      rows.emplace_back(reinterpret_cast<const std::uint64_t*>(slot(rank)), numbers);
      for (const std::uint64_t bytes : rows.back()) {
        streams_.longest = std::max(streams_.longest, static_cast<std::size_t>(bytes));
      }
    }
    check_lengths(rows);
  }

  static void copy(std::byte* target, std::span<const std::byte> source) {
    if (!source.empty()) std::memcpy(target, source.data(), source.size());
  }

  Collective call_;
  Streams streams_;
};

class ReduceScatter final : public ReadingOperation {
 public:
  ReduceScatter(SharedMemoryTransport& transport, Collective call,
                std::optional<SharedMemoryTransport::Place> place)
      : ReadingOperation(transport, call, std::move(place)), call_(std::move(call)) {}

 private:
  [[nodiscard]] std::size_t chunk_bytes() const { return transport().part_bytes(); }
  [[nodiscard]] std::uint64_t chunks() const override {
    std::size_t longest = 0;
    for (const at::Tensor& piece : call_.inputs) longest = std::max(longest, piece.nbytes());
    return count_chunks(longest, chunk_bytes());
  }

  void put(std::uint64_t chunk) override {
    for (std::size_t rank = 0; rank < call_.inputs.size(); ++rank) {
      const auto source = part_of(bytes_of(call_.inputs[rank]), chunk, chunk_bytes());
      if (source.empty()) continue;
      std::memcpy(slot(transport().rank()) + rank * chunk_bytes(), source.data(), source.size());
    }
  }

  void take(std::uint64_t chunk) override {
    const auto rank = static_cast<std::size_t>(transport().rank());
    reduce(part_of(bytes_of(call_.outputs.front()), chunk, chunk_bytes()),
           [&](int other) { return slot(other) + rank * chunk_bytes(); });
  }

  void take_in_place(const SharedMemoryTransport::Place& place) override {
    const auto rank = static_cast<std::size_t>(transport().rank());
    const auto offset = bytes_of(call_.inputs[rank]).data() - bytes_of(call_.inputs[0]).data();
    reduce(bytes_of(call_.outputs.front()), [&](int other) { return place.of(other) + offset; });
  }

  template <typename SourceOf>
  void reduce(std::span<std::byte> target, const SourceOf& source_of) {
    if (target.empty()) return;
    std::vector<const void*> inputs;
    for (int rank = 0; rank < transport().world_size(); ++rank) inputs.push_back(source_of(rank));
    void* output = target.data();
    reduce_ranks(call_.dtype(), call_.reduce_op, inputs, std::span(&output, 1),
                 target.size() / c10::elementSize(call_.dtype()));
  }

  Collective call_;
};

/// Where the input lies, if it is one piece of registered memory.
std::optional<SharedMemoryTransport::Place> find_input(const SharedMemoryTransport& transport,
                                                       const Collective& call) {
  if (call.inputs.empty() || call.has_own_sizes || call.op == CollectiveOp::Scatter) {
    return std::nullopt;
  }
  const auto* start = static_cast<const std::byte*>(call.inputs.front().const_data_ptr());
  std::size_t bytes = 0;
  for (const at::Tensor& piece : call.inputs) {
    if (piece.const_data_ptr() != start + bytes) return std::nullopt;
    bytes += piece.nbytes();
  }
  return transport.find(start, bytes);
}

}  // namespace

std::unique_ptr<Operation> make_shared_memory_data_movement(SharedMemoryTransport& transport,
                                                            Collective call) {
  auto streams = streams_of(call, transport.rank(), transport.world_size());
  auto place = find_input(transport, call);
  return std::make_unique<DataMovement>(transport, std::move(call), std::move(streams),
                                        std::move(place));
}

std::unique_ptr<Operation> make_shared_memory_reduce_scatter(SharedMemoryTransport& transport,
                                                             Collective call) {
  auto place = find_input(transport, call);
  return std::make_unique<ReduceScatter>(transport, std::move(call), std::move(place));
}

}  // namespace lockstep
