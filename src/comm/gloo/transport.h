// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/exchange/transport.h"
#include "comm/gloo/channels.h"

namespace lockstep {

/// Bytes between ranks, by c10d's groups over gloo. Every exchange is one of c10d's calls, whose
/// threads do the work. Parts that do not lie as that call needs them are packed and unpacked.
class GlooTransport final : public Transport {
 public:
  /// `channels` outlives what this starts.
  explicit GlooTransport(GlooChannels& channels);

  std::unique_ptr<Announcement> announce(const Fingerprint& own,
                                         std::span<Fingerprint> all) override;
  std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) override;
  std::unique_ptr<TransportRequest> send(const at::Tensor& tensor, const MessageHeader& header,
                                         int to) override;
  std::unique_ptr<TransportRequest> receive(const at::Tensor& tensor, const MessageHeader& expected,
                                            int from) override;
  void check_peers() override;
  void announce_abort(const std::string& reason) noexcept override {
    channels_.announce_abort(reason);
  }

  /// Memory to pack into. Each request of a collective takes over that of the one before, so that
  /// it is made once a collective and ends with it.
  struct Scratch {
    std::vector<std::byte> sent, received;
  };

 private:
  GlooChannels& channels_;
  std::weak_ptr<Scratch> latest_scratch_;
};

/// Throws `OperationFailure` where the store holds the reason of a rank that aborted.
void check_gloo_peers(GlooChannels& channels);

/// A message under way, sent or received. c10d can only wait for one, so each has a thread that
/// does.
[[nodiscard]] std::unique_ptr<TransportRequest> make_gloo_message(GlooChannels& channels,
                                                                  const at::Tensor& tensor,
                                                                  const MessageHeader& header,
                                                                  int peer, bool is_sent);

}  // namespace lockstep
