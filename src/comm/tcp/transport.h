// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/exchange/transport.h"
#include "comm/tcp/connections.h"

namespace lockstep {

/// Bytes between ranks, over TCP sockets of our own: see `TcpConnections`.
class TcpTransport final : public Transport {
 public:
  /// `connections` outlives what this starts.
  explicit TcpTransport(TcpConnections& connections);

  [[nodiscard]] std::string name_of(int rank) const override { return connections_.name_of(rank); }
  std::unique_ptr<Announcement> announce(const Fingerprint& own,
                                         std::span<Fingerprint> all) override;
  std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) override;
  std::unique_ptr<TransportRequest> send(const at::Tensor& tensor, const MessageHeader& header,
                                         int to) override;
  std::unique_ptr<TransportRequest> receive(const at::Tensor& tensor, const MessageHeader& expected,
                                            int from) override;
  void sleep(std::chrono::nanoseconds limit, Backoff& backoff) override;
  void check_peers() override;
  [[nodiscard]] std::optional<int> awaited() override;
  void announce_abort(const std::string& reason) noexcept override;

  [[nodiscard]] TcpConnections& connections() const noexcept { return connections_; }

 private:
  TcpConnections& connections_;
};

/// all_reduce and reduce: see `OwnerReductions`. The values of a small tensor travel with the
/// fingerprint, to all ranks, which add them by themselves.
[[nodiscard]] std::unique_ptr<Operation> make_tcp_reduction(TcpTransport& transport,
                                                            Collective call);

/// Whether the values of so many bytes travel with the fingerprint.
[[nodiscard]] bool is_small_tcp_reduction(const TcpConnections& connections, std::size_t bytes);

/// How values of all ranks are combined.
[[nodiscard]] ReduceKernel reduce_kernel_of(at::ScalarType dtype, ReduceOp op, int world_size);

/// Throws `OperationFailure` when a rank has aborted or has gone, and what it sent before has had
/// time to come.
void check_tcp_peers(TcpConnections& connections);
/// The same for a collective that has not been announced by all: also when one of those that are
/// missing has closed the group.
void check_tcp_announcement(TcpConnections& connections, std::uint64_t number);
/// Whose data does not come or go, when all ranks have announced the collective.
[[nodiscard]] std::string describe_tcp_slow(TcpConnections& connections);
/// Which ranks have not announced the collective, or are slow.
[[nodiscard]] std::string describe_tcp_missing(TcpConnections& connections, std::uint64_t number);

}  // namespace lockstep
