// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/owner_reduction.h"

#include <algorithm>
#include <utility>

namespace lockstep {
namespace {

constexpr std::size_t kMinPieceBytes = std::size_t{16} << 10;
// Pieces of each owner in a tensor that is not large: several are under way at once.
constexpr std::size_t kPiecesAnOwner = 4;
// Values of so many pieces may be on their way to this rank. They stay in its cache.
constexpr std::size_t kSlots = 4;
// A multiple of every element's size.
constexpr std::size_t kAlignment = 64;

/// Cuts blocks that stand in a row into pieces.
class PieceCutter {
 public:
  explicit PieceCutter(std::span<const std::span<std::byte>> blocks) : blocks_(blocks) {}

  /// The parts of the next piece; empty at the end.
  std::vector<std::span<std::byte>> next(std::size_t bytes) {
    std::vector<std::span<std::byte>> parts;
    while (bytes > 0 && !blocks_.empty()) {
      const auto rest = blocks_.front().subspan(start_);
      const auto part = rest.first(std::min(bytes, rest.size()));
      parts.push_back(part);
      bytes -= part.size();
      start_ += part.size();
      if (part.size() < rest.size()) break;
      blocks_ = blocks_.subspan(1);
      start_ = 0;
    }
    return parts;
  }

 private:
  std::span<const std::span<std::byte>> blocks_;
  std::size_t start_ = 0;
};

std::size_t bytes_in(std::span<const std::span<std::byte>> parts) {
  std::size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  return bytes;
}

void send_parts(TcpStream& stream, const std::vector<std::span<std::byte>>& parts,
                TcpStream::Done done) {
  for (std::size_t part = 0; part + 1 < parts.size(); ++part) stream.send(parts[part]);
  stream.send(parts.back(), std::move(done));
}

void receive_parts(TcpStream& stream, const std::vector<std::span<std::byte>>& parts,
                   TcpStream::Done done) {
  for (std::size_t part = 0; part + 1 < parts.size(); ++part) stream.receive(parts[part]);
  stream.receive(parts.back(), std::move(done));
}

}  // namespace

class OwnerReduction final : public TcpTask {
 public:
  explicit OwnerReduction(OwnerReductionCall call) : call_(std::move(call)) {}

  [[nodiscard]] const OwnerReductionCall& call() const noexcept { return call_; }
  [[nodiscard]] bool gets_result(int rank) const { return !call_.root || *call_.root == rank; }
  using TcpTask::expect;
  using TcpTask::finish_one;

 private:
  OwnerReductionCall call_;
};

OwnerReductions::OwnerReductions(int rank, std::vector<Links> links,
                                 const TcpAnnouncements& announcements,
                                 std::function<void(TcpTask&)> begin)
    : rank_(rank),
      links_(std::move(links)),
      announcements_(announcements),
      begin_(std::move(begin)),
      asked_(links_.size()) {}

void OwnerReductions::set_piece_bytes(std::size_t bytes) {
  max_piece_bytes_ = std::max(kMinPieceBytes, bytes / kAlignment * kAlignment);
  slots_.clear();
}

std::shared_ptr<TcpTask> OwnerReductions::start(OwnerReductionCall call) {
  if (slots_.empty()) slots_.resize(kSlots * (ranks() - 1) * max_piece_bytes_);
  auto reduction = std::make_shared<OwnerReduction>(std::move(call));
  begin_(*reduction);
  reduction->expect(1);  // so that it does not end while it begins
  const auto done = [reduction] { reduction->finish_one(); };
  const std::span<const std::span<std::byte>> blocks = reduction->call().blocks;
  const std::size_t wanted =
      bytes_in(blocks) / (kPiecesAnOwner * ranks()) / kAlignment * kAlignment;
  const std::size_t piece_bytes = std::clamp(wanted, kMinPieceBytes, max_piece_bytes_);
  PieceCutter cutter(blocks);
  int owner = 0;
  for (Parts piece; !(piece = cutter.next(piece_bytes)).empty();) {
    reduction->expect(1);
    if (owner == rank_) {
      const std::size_t bytes = bytes_in(piece);
      owned_.push_back({reduction, std::move(piece), bytes, ranks() - 1});
    } else {
      const Links& link = links_[static_cast<std::size_t>(owner)];
      send_parts(*link.contributions, piece, done);
      if (reduction->gets_result(rank_)) {
        reduction->expect(1);
        receive_parts(*link.results, piece, done);
      }
    }
    owner = (owner + 1) % static_cast<int>(ranks());
  }
  for (int peer = 0; peer < static_cast<int>(ranks()); ++peer) receive_values(peer);
  reduction->finish_one();
  return reduction;
}

void OwnerReductions::note_announcement(int rank) {
  receive_values(rank);
}

void OwnerReductions::receive_values(int peer) {
  if (peer == rank_) return;
  std::uint64_t& next = asked_[static_cast<std::size_t>(peer)];
  while (next < first_ + std::min(owned_.size(), kSlots)) {
    const OwnedPiece& piece = owned_[next - first_];
    if (!announcements_.do_agree(piece.reduction->call().number, peer)) return;
    const std::uint64_t number = next++;
    links_[static_cast<std::size_t>(peer)].contributions->receive(
        {slot(number, peer), piece.bytes}, [this, number] { note_values(number); });
  }
}

void OwnerReductions::note_values(std::uint64_t piece) {
  // Pieces come in order from each rank, so the first one is the first to be complete.
  if (--owned_[piece - first_].missing > 0) return;
  reduce_first();
  for (int peer = 0; peer < static_cast<int>(ranks()); ++peer) receive_values(peer);
}

void OwnerReductions::reduce_first() {
  const OwnedPiece piece = std::move(owned_.front());
  // Where this rank gets no result, its own values stay as they are.
  std::shared_ptr<std::vector<std::byte>> other;
  Parts result = piece.own;
  if (!piece.reduction->gets_result(rank_)) {
    other = std::make_shared<std::vector<std::byte>>(piece.bytes);
    result.assign(1, *other);
  }
  add_values(piece, other ? other->data() : nullptr);
  owned_.pop_front();
  ++first_;
  for (int peer = 0; peer < static_cast<int>(ranks()); ++peer) {
    if (peer == rank_ || !piece.reduction->gets_result(peer)) continue;
    piece.reduction->expect(1);
    send_parts(*links_[static_cast<std::size_t>(peer)].results, result,
               [reduction = piece.reduction, other] { reduction->finish_one(); });
  }
  piece.reduction->finish_one();
}

void OwnerReductions::add_values(const OwnedPiece& piece, std::byte* other) {
  const ReduceKernel& kernel = piece.reduction->call().kernel;
  std::size_t offset = 0;
  for (const auto& part : piece.own) {
    std::vector<const void*> inputs;
    for (int rank = 0; rank < static_cast<int>(ranks()); ++rank) {
      inputs.push_back(rank == rank_ ? part.data() : slot(first_, rank) + offset);
    }
    std::byte* output = other == nullptr ? part.data() : other + offset;
    kernel.all(inputs, output, part.size() / kernel.element_bytes);
    offset += part.size();
  }
}

std::byte* OwnerReductions::slot(std::uint64_t piece, int peer) {
  const std::size_t column = static_cast<std::size_t>(peer < rank_ ? peer : peer - 1);
  const std::size_t row = piece % kSlots;
  return slots_.data() + (row * (ranks() - 1) + column) * max_piece_bytes_;
}

}  // namespace lockstep
