// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/exchange/operation.h"
#include "comm/hierarchical/hierarchy.h"

namespace lockstep {

/// The base class of collectives over several hosts. Ranks agree over the transport, as for any
/// other call. The steps are exchanges over the transport, or collectives in the memory of this
/// host, or both at the same time. Only the oldest operation uses the host's memory, so that all
/// ranks of the host use it in the same order.
class HierarchicalOperation : public ExchangeOperation {
 public:
  [[nodiscard]] bool spin() final;
  void sleep(std::chrono::nanoseconds limit) final;
  void check_peers() final;
  [[nodiscard]] std::string describe_missing() const final;

 protected:
  HierarchicalOperation(Hierarchy& hierarchy, const Fingerprint& fingerprint, std::size_t bytes,
                        std::size_t chunk_bytes)
      : ExchangeOperation(hierarchy.transport, fingerprint, bytes, chunk_bytes),
        hierarchy_(hierarchy) {}

  /// Adds a collective of this host's ranks to the current step, behind those that it has. Does
  /// nothing where this rank is alone on its host.
  void start_local(Collective call);
  bool is_step_done() final;
  /// Adds a reduction over all hosts to the current step.
  void start_reduction(const Collective& call, std::vector<ReductionLine> lines,
                       const ReductionExtent& extent);

  /// An exchange in which this rank has no part so far. All ranks start it.
  [[nodiscard]] Exchange empty_exchange() const;

  [[nodiscard]] const HostLayout& layout() const noexcept { return hierarchy_.layout; }
  [[nodiscard]] std::size_t host_count() const noexcept { return layout().hosts.size(); }
  [[nodiscard]] std::size_t local_size() const noexcept { return layout().own_ranks().size(); }
  [[nodiscard]] std::size_t local_rank() const noexcept {
    return static_cast<std::size_t>(layout().own_index);
  }

 private:
  void start_next_local();
  [[nodiscard]] bool are_locals_done();
  /// Whether what the current step does between hosts is complete.
  [[nodiscard]] bool is_exchange_done();
  /// The index of a rank of this host that has announced nothing and has gone; the number of ranks
  /// where there is none.
  [[nodiscard]] int find_gone() const;
  /// A rank for which this one waits, unless it waits for those of its host alone.
  [[nodiscard]] std::optional<int> awaited() const;
  /// For whom the other ranks of this host wait, as the continuation of a text.
  [[nodiscard]] std::string describe_awaited() const;

  Hierarchy& hierarchy_;
  std::optional<std::chrono::steady_clock::time_point> is_suspicious_since_;
  std::unique_ptr<Operation> local_;
  std::deque<Collective> next_locals_;
  std::unique_ptr<HostReduction> reduction_;
  bool is_exchanged_ = false;  // when it was last asked
};

/// `bytes` of the rank of this host with that index, for `start_local`.
[[nodiscard]] Collective local_broadcast(std::span<std::byte> bytes, std::size_t index);

}  // namespace lockstep
