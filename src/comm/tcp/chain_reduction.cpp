// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/chain_reduction.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

// Long enough that a message costs little, short enough that they keep the links busy.
constexpr std::size_t kChainPieceBytes = std::size_t{256} << 10;
constexpr std::size_t kMinChainPieceBytes = std::size_t{16} << 10;
constexpr std::size_t kChainPieces = 8;
constexpr std::size_t kChainSlots = 4;

std::size_t piece_elements(std::size_t bytes, std::size_t element_bytes) {
  const std::size_t piece = std::clamp(bytes / kChainPieces, kMinChainPieceBytes, kChainPieceBytes);
  return std::max<std::size_t>(1, piece / element_bytes);
}

}  // namespace

TcpChainReduction::TcpChainReduction(Place place, ReduceKernel kernel,
                                     std::vector<const std::byte*> values,
                                     std::span<std::byte> result)
    : place_(std::move(place)),
      kernel_(std::move(kernel)),
      values_(std::move(values)),
      result_(result),
      piece_elements_(piece_elements(result.size(), kernel_.element_bytes)) {
  const std::size_t all = result.size() / kernel_.element_bytes;
  pieces_ = (all + piece_elements_ - 1) / piece_elements_;
  slots_.resize(kChainSlots * piece_elements_ * kernel_.accumulator_bytes);
}

void TcpChainReduction::start() {
  expect(pieces_);  // each ends here by its last transfer
  if (place_.result_from) {
    for (std::size_t piece = 0; piece < pieces_; ++piece) {
      expect(1);
      place_.result_from->stream->receive(result(piece), [this, piece] { note_result(piece); });
    }
  }
  begin_pieces();
}

void TcpChainReduction::begin_pieces() {
  while (begun_ < pieces_ && begun_ < has_left_ + kChainSlots) {
    const std::size_t piece = begun_++;
    if (place_.previous) {
      place_.previous->stream->receive(partial(piece), [this, piece] { add_own(piece); });
    } else {
      add_own(piece);
    }
  }
}

void TcpChainReduction::add_own(std::size_t piece) {
  std::vector<const void*> inputs;
  for (const std::byte* value : values_) {
    inputs.push_back(value + piece * piece_elements_ * kernel_.element_bytes);
  }
  const auto sum = partial(piece);
  const void* before = place_.previous ? sum.data() : nullptr;
  ++added_;
  if (place_.next) {
    kernel_.some(before, inputs, sum.data(), elements(piece));
    place_.next->stream->send(sum, [this, piece] { note_sent(piece); });
    return;
  }
  kernel_.last(before, inputs, result(piece).data(), elements(piece));
  send_back(piece);
  note_sent(piece);
}

void TcpChainReduction::note_sent(std::size_t) {
  ++has_left_;
  begin_pieces();
  finish_one();
}

void TcpChainReduction::note_result(std::size_t piece) {
  ++has_result_;
  send_back(piece);
  finish_one();
}

void TcpChainReduction::send_back(std::size_t piece) {
  if (!place_.result_to) return;
  expect(1);
  place_.result_to->stream->send(result(piece), [this] { finish_one(); });
}

std::optional<int> TcpChainReduction::waits_for() const {
  if (place_.previous && added_ < pieces_) return place_.previous->rank;
  if (place_.result_from && has_result_ < pieces_) return place_.result_from->rank;
  if (place_.next && has_left_ < pieces_) return place_.next->rank;
  return std::nullopt;
}

std::size_t TcpChainReduction::elements(std::size_t piece) const {
  const std::size_t all = result_.size() / kernel_.element_bytes;
  return std::min(piece_elements_, all - piece * piece_elements_);
}

std::span<std::byte> TcpChainReduction::result(std::size_t piece) const {
  return result_.subspan(piece * piece_elements_ * kernel_.element_bytes,
                         elements(piece) * kernel_.element_bytes);
}

std::span<std::byte> TcpChainReduction::partial(std::size_t piece) {
  const std::size_t bytes = piece_elements_ * kernel_.accumulator_bytes;
  return std::span(slots_).subspan(piece % kChainSlots * bytes,
                                   elements(piece) * kernel_.accumulator_bytes);
}

}  // namespace lockstep
