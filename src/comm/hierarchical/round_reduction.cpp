// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <utility>

#include "comm/collective/reduce_kernels.h"
#include "comm/hierarchical/host_reduction.h"

namespace lockstep {
namespace {

// A round costs the latency of an exchange, so that pieces are longer than the messages of MPI's.
constexpr std::size_t kRoundPieceBytes = std::size_t{2} << 20;

/// Host h adds its values to piece p at the start of round p + h, and passes it on in that round.
/// The last host so has piece p of the result at the start of round p + hosts - 1.
class RoundReduction final : public HostReduction {
 public:
  RoundReduction(Transport& transport, at::ScalarType dtype, ReduceOp op)
      : transport_(transport), dtype_(dtype), op_(op) {
    const auto ranks = static_cast<std::size_t>(transport.world_size());
    outgoing_.resize(ranks);
    incoming_.resize(ranks);
  }

  void start(std::vector<ReductionLine> lines, const ReductionExtent& extent) override {
    lines_ = std::move(lines);
    befores_.assign(lines_.size(), nullptr);
    extent_ = extent;
    const std::size_t pieces = (extent.bytes + kRoundPieceBytes - 1) / kRoundPieceBytes;
    rounds_ = pieces == 0 ? 0 : pieces + extent.hosts - 2 + extent.hops;
    round_ = 0;
    is_done_ = pieces == 0;
    request_.reset();
    if (!is_done_) start_round();
  }

  bool advance() override {
    while (!is_done_) {
      if (request_ && !request_->is_done()) return false;
      if (request_) take_incoming();
      ++round_;
      start_round();
    }
    return true;
  }

  [[nodiscard]] std::optional<int> waits_for() const override {
    for (const ReductionLine& line : lines_) {
      if (!incoming_partial(line).empty()) return line.previous;
      if (!incoming_result(line).empty()) return line.result_from;
    }
    return std::nullopt;
  }

 private:
  /// What goes to a rank in a round, or comes from it. The memory stays for the next round.
  struct Row {
    std::vector<std::byte> memory;
    std::size_t used = 0;

    [[nodiscard]] std::span<std::byte> bytes() { return std::span(memory).first(used); }
  };

  // --- which piece of a line is where in this round; empty: none ---

  [[nodiscard]] std::span<std::byte> piece(const ReductionLine& line, std::size_t delay) const {
    if (round_ < delay) return {};
    const std::size_t start = std::min(line.result.size(), (round_ - delay) * kRoundPieceBytes);
    return line.result.subspan(start, std::min(kRoundPieceBytes, line.result.size() - start));
  }
  [[nodiscard]] std::span<std::byte> own_piece(const ReductionLine& line) const {
    return piece(line, extent_.own_host);
  }
  [[nodiscard]] std::span<std::byte> outgoing_result(const ReductionLine& line) const {
    return line.result_to ? piece(line, extent_.hosts - 1 + line.hops) : std::span<std::byte>();
  }
  /// What comes in the exchange of this round is the own piece of the next one.
  [[nodiscard]] std::span<std::byte> incoming_partial(const ReductionLine& line) const {
    return line.previous ? piece(line, extent_.own_host - 1) : std::span<std::byte>();
  }
  [[nodiscard]] std::span<std::byte> incoming_result(const ReductionLine& line) const {
    return line.result_from ? piece(line, extent_.hosts - 2 + line.hops) : std::span<std::byte>();
  }

  // --- a round ---

  void start_round() {
    for (Row& row : outgoing_) row.used = 0;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      add_own(lines_[i], befores_[i]);
      const auto result = outgoing_result(lines_[i]);
      if (result.empty()) continue;
      const auto target = append(outgoing_, *lines_[i].result_to, result.size());
      std::copy(result.begin(), result.end(), target.begin());
    }
    is_done_ = round_ == rounds_;
    if (is_done_) return;
    for (Row& row : incoming_) row.used = 0;
    for (const ReductionLine& line : lines_) {
      append(incoming_, line.previous, partial_bytes(incoming_partial(line)));
      append(incoming_, line.result_from, incoming_result(line).size());
    }
    if (extent_.hosts == 1) return;
    Exchange rows;
    for (Row& row : outgoing_) rows.sends.push_back(row.bytes());
    for (Row& row : incoming_) rows.receives.push_back(row.bytes());
    request_ = transport_.exchange(rows);
  }

  /// `before`: the partial sum of the hosts before this one; null on the first.
  void add_own(const ReductionLine& line, const std::byte* before) {
    const auto own = own_piece(line);
    if (own.empty()) return;
    const auto start = own.data() - line.result.data();
    std::vector<const void*> inputs;
    for (const std::byte* value : line.values) inputs.push_back(value + start);
    const std::size_t elements = own.size() / c10::elementSize(dtype_);
    if (line.next) {
      const auto after = append(outgoing_, line.next, partial_bytes(own));
      reduce_some_ranks(dtype_, op_, before, inputs, after.data(), elements);
    } else {
      reduce_last_ranks(dtype_, op_, before, inputs, own.data(), elements, transport_.world_size());
    }
  }

  /// What has come from a rank lies in a row, in the order of the lines, as that rank appended it.
  void take_incoming() {
    std::vector<std::size_t> taken(incoming_.size());
    const auto take = [&](int from, std::size_t bytes) {
      const auto index = static_cast<std::size_t>(from);
      return incoming_[index].memory.data() + std::exchange(taken[index], taken[index] + bytes);
    };
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      const auto partial = incoming_partial(lines_[i]);
      befores_[i] = partial.empty() ? nullptr : take(*lines_[i].previous, partial_bytes(partial));
      const auto result = incoming_result(lines_[i]);
      if (result.empty()) continue;
      std::copy_n(take(*lines_[i].result_from, result.size()), result.size(), result.begin());
    }
  }

  [[nodiscard]] std::size_t partial_bytes(std::span<const std::byte> piece) const {
    return piece.size() / c10::elementSize(dtype_) * accumulator_bytes(dtype_);
  }
  static std::span<std::byte> append(std::vector<Row>& rows, std::optional<int> rank,
                                     std::size_t bytes) {
    if (bytes == 0) return {};
    Row& row = rows[static_cast<std::size_t>(*rank)];
    row.used += bytes;
    if (row.memory.size() < row.used) row.memory.resize(row.used);
    return row.bytes().last(bytes);
  }

  Transport& transport_;
  at::ScalarType dtype_;
  ReduceOp op_;
  std::vector<ReductionLine> lines_;
  ReductionExtent extent_;
  std::size_t rounds_ = 0;  // exchanges; what the last one brings is added or taken after it
  std::size_t round_ = 0;
  bool is_done_ = true;
  std::vector<Row> outgoing_, incoming_;   // one a rank
  std::vector<const std::byte*> befores_;  // of the lines, in `incoming_`
  std::unique_ptr<TransportRequest> request_;
};

}  // namespace

std::unique_ptr<HostReduction> make_round_reduction(Transport& transport, at::ScalarType dtype,
                                                    ReduceOp op) {
  return std::make_unique<RoundReduction>(transport, dtype, op);
}

}  // namespace lockstep
