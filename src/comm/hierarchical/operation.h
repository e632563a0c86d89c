// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/exchange/operation.h"
#include "comm/hierarchical/hierarchy.h"
#include "native/mpi/mpi_environment.h"

namespace lockstep {

/// The base class of collectives over several hosts. Ranks agree over MPI, as for any other call.
/// The steps are requests of MPI, or collectives in the memory of this host, or both. Only the
/// oldest operation uses the host's memory, so that all ranks of the host use it in the same order.
class MpiHierarchicalOperation : public ExchangeOperation {
 public:
  void sleep(std::chrono::nanoseconds limit) override;
  void check_peers() override;
  [[nodiscard]] std::string describe_missing() const override;

 protected:
  MpiHierarchicalOperation(MpiHierarchy& hierarchy, const Fingerprint& fingerprint,
                           std::size_t bytes, std::size_t chunk_bytes)
      : ExchangeOperation(hierarchy.transport, fingerprint, bytes, chunk_bytes),
        hierarchy_(hierarchy) {}

  /// Adds a collective of this host's ranks to the current step. Does nothing where this rank is
  /// alone on its host.
  void start_local(Collective call);
  bool is_step_done() override;
  /// The part of the current step that goes between hosts.
  [[nodiscard]] native::MpiRequests& requests() noexcept { return requests_; }

  [[nodiscard]] MpiHierarchy& hierarchy() const noexcept { return hierarchy_; }
  [[nodiscard]] const HostLayout& layout() const noexcept { return hierarchy_.layout; }
  [[nodiscard]] std::size_t local_size() const noexcept { return layout().own_ranks().size(); }
  [[nodiscard]] std::size_t local_rank() const noexcept {
    return static_cast<std::size_t>(layout().own_index);
  }

 private:
  /// The index of a rank of this host that has announced nothing and has gone; the number of ranks
  /// where there is none.
  [[nodiscard]] int find_gone() const;

  MpiHierarchy& hierarchy_;
  std::optional<std::chrono::steady_clock::time_point> is_suspicious_since_;
  std::unique_ptr<Operation> local_;
  native::MpiRequests requests_;
};

}  // namespace lockstep
