// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "comm/tcp/announcements.h"
#include "comm/tcp/reduction.h"
#include "comm/tcp/stream.h"

namespace lockstep {

/// A reduction of all ranks of a group: all_reduce, or reduce to `root`.
struct OwnerReductionCall {
  std::uint64_t number = 0;  ///< of the collective
  /// This rank's values, as if they stood in a row; none is empty. The result comes to the same
  /// places. Ranks may cut the row differently.
  std::vector<std::span<std::byte>> blocks;
  std::optional<int> root;  ///< none: all ranks get the result
  ReduceKernel kernel;
};

class OwnerReduction;

/// Reductions in which every rank owns a part of the tensor. Ranks send their values straight to
/// the owner, which adds them in rank order and sends the sums to all: reduce-scatter and
/// all-gather, with the same bits on any number of hosts. The tensor is cut into pieces, whose
/// owners take turns, so that all links carry values and sums in both directions from the first
/// piece to the last. Several reductions are under way at once, in the order in which they were
/// started.
///
/// Each rank sends and receives 2 N (W - 1) / W bytes for N bytes on W ranks. Values go out before
/// it is known whether the other ranks have made the same call; a rank reads those of another one
/// when it knows that.
///
/// Thread-safety: under `TcpEngine::mutex`. Holds no torch.
class OwnerReductions {
 public:
  struct Links {
    TcpStream* contributions = nullptr;  ///< values to owners
    TcpStream* results = nullptr;        ///< sums from owners
  };

  /// `links`: by rank; those of this rank are null. `begin`: called with each
  /// reduction before it begins.
  OwnerReductions(int rank, std::vector<Links> links, const TcpAnnouncements& announcements,
                  std::function<void(TcpTask&)> begin);

  /// The longest piece from the next reduction on, the same on all ranks. None is under way.
  void set_piece_bytes(std::size_t bytes);
  /// There is at least one block. The blocks stay until the task is done or the streams are
  /// abandoned.
  std::shared_ptr<TcpTask> start(OwnerReductionCall call);
  /// A rank has announced a collective: its values may be read now.
  void note_announcement(int rank);

 private:
  using Parts = std::vector<std::span<std::byte>>;
  /// A piece that this rank owns and has not summed yet.
  struct OwnedPiece {
    std::shared_ptr<OwnerReduction> reduction;
    Parts own;
    std::size_t bytes = 0;
    std::size_t missing = 0;
  };

  void receive_values(int peer);
  void note_values(std::uint64_t piece);
  void reduce_first();
  /// `other`: where the sums go; null: to the place of this rank's values.
  void add_values(const OwnedPiece& piece, std::byte* other);
  [[nodiscard]] std::byte* slot(std::uint64_t piece, int peer);
  [[nodiscard]] std::size_t ranks() const noexcept { return links_.size(); }

  int rank_;
  std::vector<Links> links_;
  const TcpAnnouncements& announcements_;
  std::function<void(TcpTask&)> begin_;
  std::size_t max_piece_bytes_ = 0;
  std::deque<OwnedPiece> owned_;  // the first has number `first_`
  std::uint64_t first_ = 0;
  std::vector<std::uint64_t> asked_;  // by rank: the next owned piece whose values are asked for
  std::vector<std::byte> slots_;
};

}  // namespace lockstep
