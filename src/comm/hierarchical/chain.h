// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/comm/types.h>

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "native/mpi/mpi_environment.h"

namespace lockstep {

/// A reduction that runs from host to host, in rank order. Each host adds its ranks' values to the
/// partial sum of the hosts before it, and the last host sends the result back. The data is cut
/// into pieces, so that all links are busy at the same time: N bytes forward (2 N or more for short
/// floats, whose sums travel as float) and N back over each link, in (pieces + hosts) steps.
///
/// One rank of each host takes part. Several chains, over different shares, run at the same time.
class MpiChain {
 public:
  struct Place {
    MPI_Comm communicator = MPI_COMM_NULL;
    std::optional<int> previous;  ///< the rank of the host before; none: this is the first
    std::optional<int> next;      ///< the rank of the host after; none: this is the last
    bool takes_result = true;     ///< whether the result comes as far back as here
    bool hands_result_on = true;  ///< ... and further, to `previous`
    int world_size = 1;           ///< of the whole reduction
  };

  MpiChain(const Place& place, at::ScalarType dtype, ReduceOp op);

  /// `values`: one pointer for each rank of this host, to `result.size()` bytes, which must stay
  /// valid until `advance` has returned true. The result is written to `result` unless this rank
  /// takes none.
  void start(std::vector<const std::byte*> values, std::span<std::byte> result);
  /// Advances as far as messages have come. True at the end. Never blocks.
  bool advance();
  /// The rank for whose message this one waits.
  [[nodiscard]] std::optional<int> waits_for() const;

 private:
  /// Whether a piece of the result is still to come from the next host.
  [[nodiscard]] bool is_result_due() const;
  [[nodiscard]] std::size_t elements_of(std::size_t piece) const;
  [[nodiscard]] std::byte* partial(std::size_t piece);
  [[nodiscard]] std::span<std::byte> result(std::size_t piece);
  void add_own(std::size_t piece);
  void send(std::span<const std::byte> bytes, int to, int tag);

  Place place_;
  at::ScalarType dtype_;
  ReduceOp op_;
  std::vector<const std::byte*> values_;
  std::span<std::byte> result_;
  std::vector<std::byte> partials_;
  native::MpiRequests partial_receives_, result_receives_, sends_;
  std::size_t pieces_ = 0;
  std::size_t forward_ = 0;  // pieces that have gone through here
  std::size_t back_ = 0;
};

}  // namespace lockstep
