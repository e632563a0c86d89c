// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "comm/tcp/reduction.h"
#include "comm/tcp/stream.h"

namespace lockstep {

/// A reduction that runs from host to host, in rank order, for hosts with several ranks. Each host
/// adds its ranks' values to the partial sum of the hosts before it, and the last host has the
/// result, which goes back along the chain or to one rank. The data is cut into pieces: while the
/// first go back, the last still go forward, over the same link. N bytes forward over each link (2
/// N or more for short floats, whose sums travel as float) and N back.
///
/// One rank of each host takes part. Chains over different shares of a tensor run at the same time
/// on different ranks. All ranks have agreed on the call before. Streams are those of the two
/// neighbours; one chain runs over them at a time.
///
/// Thread-safety: under `TcpEngine::mutex`. Holds no torch.
class TcpChainReduction final : public TcpTask {
 public:
  struct Neighbour {
    int rank = 0;
    TcpStream* stream = nullptr;
  };
  struct Place {
    std::optional<Neighbour> previous;     ///< who sends partial sums; none: this is the first
    std::optional<Neighbour> next;         ///< who gets them; none: this is the last
    std::optional<Neighbour> result_from;  ///< who sends the result; none: nobody
    std::optional<Neighbour> result_to;    ///< who gets it; none: nobody
  };

  /// `values`: one pointer for each rank of this host, to `result.size()` bytes. `result` is not
  /// empty; it is written where this is the last host or the result comes here. Both stay until the
  /// task is done or the streams are abandoned.
  TcpChainReduction(Place place, ReduceKernel kernel, std::vector<const std::byte*> values,
                    std::span<std::byte> result);
  void start();

  /// The rank for whose bytes this one waits.
  [[nodiscard]] std::optional<int> waits_for() const;

 private:
  [[nodiscard]] std::span<std::byte> result(std::size_t piece) const;
  [[nodiscard]] std::size_t elements(std::size_t piece) const;
  /// Where the partial sum of a piece lies.
  [[nodiscard]] std::span<std::byte> partial(std::size_t piece);
  void begin_pieces();
  void add_own(std::size_t piece);
  void note_sent(std::size_t piece);
  void note_result(std::size_t piece);
  void send_back(std::size_t piece);

  Place place_;
  ReduceKernel kernel_;
  std::vector<const std::byte*> values_;
  std::span<std::byte> result_;
  std::size_t piece_elements_;
  std::size_t pieces_;
  std::size_t begun_ = 0;       // pieces that have a slot, or have had one
  std::size_t added_ = 0;       // ... to which this host's values have been added
  std::size_t has_left_ = 0;    // ... whose slot is free again
  std::size_t has_result_ = 0;  // results that have come from the next host
  std::vector<std::byte> slots_;
};

}  // namespace lockstep
