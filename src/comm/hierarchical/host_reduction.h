// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/comm/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "comm/exchange/transport.h"

namespace lockstep {

/// One rank's part in a sum that runs along a line of ranks, one on each host, in the order of the
/// hosts: each adds its host's values to the partial sum of the hosts before it, and the last one
/// has the result, which travels on to the ranks that want it.
struct ReductionLine {
  int number = 0;  ///< the same on all ranks of the line; no other line of the reduction has it
  std::optional<int> previous{};     ///< the rank on the host before; none: this is the first
  std::optional<int> next{};         ///< the rank on the host after; none: this is the last
  std::size_t hops = 0;              ///< messages that bring the result from the last rank to here
  std::optional<int> result_from{};  ///< who sends this rank the result; none: nobody
  std::optional<int> result_to{};    ///< to whom this rank sends it; none: to nobody
  /// One for each rank of this host: `result.size()` bytes.
  std::vector<const std::byte*> values{};
  /// Written where this rank makes the result or receives it.
  std::span<std::byte> result{};
};

/// What all ranks know of a reduction, those that stand in no line too.
struct ReductionExtent {
  std::size_t bytes = 0;  ///< of the longest line
  std::size_t hosts = 1;
  std::size_t own_host = 0;
  std::size_t hops = 0;  ///< the most of any rank in any line
};

/// A reduction over several hosts, by any number of lines at the same time. It adds in the order of
/// the ranks, so that the result has the same bits as on one host.
///
/// All ranks of the group take part. Nothing here blocks. Thread-safety: one thread at a time.
class HostReduction {
 public:
  virtual ~HostReduction() = default;
  HostReduction(const HostReduction&) = delete;
  HostReduction& operator=(const HostReduction&) = delete;

  /// Begins, once the one before is complete. `lines`: those in which this rank stands, in the
  /// order of their numbers. Their memory stays valid until `advance` has returned true.
  virtual void start(std::vector<ReductionLine> lines, const ReductionExtent& extent) = 0;
  /// Advances as far as messages have come. True at the end; may be asked again then.
  [[nodiscard]] virtual bool advance() = 0;
  /// A rank for whose message this one waits, where it is known.
  [[nodiscard]] virtual std::optional<int> waits_for() const = 0;

 protected:
  HostReduction() = default;
};

/// Makes the reductions of a group over `transport`.
using MakeHostReduction = std::unique_ptr<HostReduction> (*)(Transport& transport,
                                                             at::ScalarType dtype, ReduceOp op);

/// For any transport: `Exchange::Pattern::Pairs`, a round after the other. In each round, each host
/// passes one piece of each line on, and one piece of its result; there are as many rounds as
/// pieces and hosts together.
[[nodiscard]] std::unique_ptr<HostReduction> make_round_reduction(Transport& transport,
                                                                  at::ScalarType dtype,
                                                                  ReduceOp op);

}  // namespace lockstep
