// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/mpi_reduction.h"

#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/mpi/transport.h"

namespace lockstep {
namespace {

using native::check_mpi;

// A line has two tags of its own on the communicator of the data, behind those of exchanges: the
// messages of two lines between the same ranks go out in any order.
constexpr int kFirstLineTag = 2;
// Long enough for the bandwidth of a network, short enough that all hosts of a line soon work.
constexpr std::size_t kLinePieceBytes = std::size_t{256} << 10;

/// One line of a reduction.
class MpiLine {
 public:
  MpiLine(const MpiChannels& channels, at::ScalarType dtype, ReduceOp op)
      : communicator_(channels.data.get()),
        world_size_(channels.data.size()),
        dtype_(dtype),
        op_(op) {}

  void start(ReductionLine line) {
    line_ = std::move(line);
    pieces_ = (line_.result.size() + kLinePieceBytes - 1) / kLinePieceBytes;
    forward_ = back_ = 0;
    for (auto* requests : {&partial_receives_, &result_receives_, &sends_}) requests->clear();
    if (line_.previous || line_.next) {
      partials_.resize(line_.result.size() / c10::elementSize(dtype_) * accumulator_bytes(dtype_));
    }
    for (std::size_t piece = 0; line_.previous && piece < pieces_; ++piece) {
      receive({partial(piece), elements_of(piece) * accumulator_bytes(dtype_)}, *line_.previous,
              forward_tag(), partial_receives_);
    }
    for (std::size_t piece = 0; line_.result_from && piece < pieces_; ++piece) {
      receive(result(piece), *line_.result_from, result_tag(), result_receives_);
    }
  }

  bool advance() {
    while (forward_ < pieces_ && (!line_.previous || partial_receives_.is_done(forward_))) {
      add_own(forward_++);
    }
    while (is_result_due() && result_receives_.is_done(back_)) hand_on(back_++);
    if (forward_ < pieces_ || is_result_due()) return false;
    // All requests are complete; this frees them.
    return partial_receives_.test() && result_receives_.test() && sends_.test();
  }

  [[nodiscard]] std::optional<int> waits_for() const {
    if (forward_ < pieces_) return line_.previous;
    return is_result_due() ? line_.result_from : std::nullopt;
  }

 private:
  [[nodiscard]] int forward_tag() const { return kFirstLineTag + 2 * line_.number; }
  [[nodiscard]] int result_tag() const { return forward_tag() + 1; }
  /// Whether a piece of the result is still to come.
  [[nodiscard]] bool is_result_due() const { return line_.result_from && back_ < pieces_; }

  [[nodiscard]] std::size_t elements_of(std::size_t piece) const {
    const std::size_t start = piece * kLinePieceBytes;
    return std::min(kLinePieceBytes, line_.result.size() - start) / c10::elementSize(dtype_);
  }
  [[nodiscard]] std::byte* partial(std::size_t piece) {
    const std::size_t elements = kLinePieceBytes / c10::elementSize(dtype_);
    return partials_.data() + piece * elements * accumulator_bytes(dtype_);
  }
  [[nodiscard]] std::span<std::byte> result(std::size_t piece) const {
    return line_.result.subspan(piece * kLinePieceBytes,
                                elements_of(piece) * c10::elementSize(dtype_));
  }

  void receive(std::span<std::byte> bytes, int from, int tag, native::MpiRequests& requests) {
    check_mpi(MPI_Irecv(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE, from, tag,
                        communicator_, requests.add()),
              "MPI_Irecv");
  }
  void send(std::span<const std::byte> bytes, int to, int tag) {
    check_mpi(MPI_Isend(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE, to, tag, communicator_,
                        sends_.add()),
              "MPI_Isend");
  }
  void hand_on(std::size_t piece) {
    if (line_.result_to) send(result(piece), *line_.result_to, result_tag());
  }

  void add_own(std::size_t piece) {
    std::vector<const void*> inputs;
    for (const std::byte* value : line_.values) inputs.push_back(value + piece * kLinePieceBytes);
    const void* before = line_.previous ? partial(piece) : nullptr;
    const std::size_t elements = elements_of(piece);
    if (line_.next) {
      reduce_some_ranks(dtype_, op_, before, inputs, partial(piece), elements);
      return send({partial(piece), elements * accumulator_bytes(dtype_)}, *line_.next,
                  forward_tag());
    }
    reduce_last_ranks(dtype_, op_, before, inputs, result(piece).data(), elements, world_size_);
    hand_on(piece);
  }

  MPI_Comm communicator_;
  int world_size_;
  at::ScalarType dtype_;
  ReduceOp op_;
  ReductionLine line_;
  std::vector<std::byte> partials_;
  native::MpiRequests partial_receives_, result_receives_, sends_;
  std::size_t pieces_ = 0;
  std::size_t forward_ = 0;  // pieces that have gone through here
  std::size_t back_ = 0;
};

class MpiReduction final : public HostReduction {
 public:
  MpiReduction(const MpiChannels& channels, at::ScalarType dtype, ReduceOp op)
      : channels_(channels), dtype_(dtype), op_(op) {}

  void start(std::vector<ReductionLine> lines, const ReductionExtent& /*extent*/) override {
    active_ = lines.size();
    while (lines_.size() < active_) lines_.emplace_back(channels_, dtype_, op_);
    for (std::size_t i = 0; i < active_; ++i) lines_[i].start(std::move(lines[i]));
  }

  bool advance() override {
    bool is_done = true;
    for (std::size_t i = 0; i < active_; ++i) is_done = lines_[i].advance() && is_done;
    if (is_done) active_ = 0;
    return is_done;
  }

  [[nodiscard]] std::optional<int> waits_for() const override {
    for (std::size_t i = 0; i < active_; ++i) {
      if (const auto rank = lines_[i].waits_for()) return rank;
    }
    return std::nullopt;
  }

 private:
  const MpiChannels& channels_;
  at::ScalarType dtype_;
  ReduceOp op_;
  std::vector<MpiLine> lines_;  // their memory serves the next chunk
  std::size_t active_ = 0;
};

}  // namespace

std::unique_ptr<HostReduction> make_mpi_reduction(Transport& transport, at::ScalarType dtype,
                                                  ReduceOp op) {
  return std::make_unique<MpiReduction>(dynamic_cast<MpiTransport&>(transport).channels(), dtype,
                                        op);
}

}  // namespace lockstep
