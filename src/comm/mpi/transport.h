// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "comm/exchange/transport.h"
#include "comm/mpi/channels.h"

namespace lockstep {

/// Bytes between ranks, by MPI. Nothing is cancelled: MPI may read and write the memory of a
/// request that never ends for as long as the process lives.
///
/// Point-to-point messages carry the fingerprints, so that a time-out can say who is missing. For
/// streams between pairs of ranks each is a message of its own.
class MpiTransport final : public Transport {
 public:
  /// `channels` outlives what this starts.
  explicit MpiTransport(MpiChannels& channels);

  std::unique_ptr<Announcement> announce(const Fingerprint& own,
                                         std::span<Fingerprint> all) override;
  std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) override;
  std::unique_ptr<TransportRequest> send(const at::Tensor& tensor, const MessageHeader& header,
                                         int to) override;
  std::unique_ptr<TransportRequest> receive(const at::Tensor& tensor, const MessageHeader& expected,
                                            int from) override;
  void check_peers() override { check_mpi_peers(channels_); }
  void announce_abort(const std::string& reason) noexcept override {
    announce_mpi_abort(channels_, reason);
  }

  [[nodiscard]] MpiChannels& channels() const noexcept { return channels_; }

 private:
  MpiChannels& channels_;
};

/// MPI counts in int; chunks are far below its end.
[[nodiscard]] inline int to_mpi_count(std::size_t value) {
  return static_cast<int>(value);
}

}  // namespace lockstep
