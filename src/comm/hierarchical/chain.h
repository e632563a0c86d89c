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

/// A reduction that runs from host to host, in rank order: each host adds its ranks' values to what
/// the hosts before it gave, the last one has the result, and it runs back. Cut into pieces, so
/// that all links carry something at the same time: N bytes forward (2 N or more for short floats,
/// whose sums travel as float) and N back over each link, in (pieces + hosts) steps.
///
/// One rank a host takes part; several chains, over different shares, run side by side.
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

  /// `values`: of each rank of this host, `result.size()` bytes each; they stay until `advance`
  /// has returned true. `result` takes the result, where this rank takes it.
  void start(std::vector<const std::byte*> values, std::span<std::byte> result);
  /// Goes on as far as messages have come. True at the end. Never blocks.
  bool advance();
  /// The rank whose message is waited for.
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
