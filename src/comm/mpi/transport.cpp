// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi/transport.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace lockstep {
namespace {

using native::check_mpi;

constexpr int kExchangeTag = 1;
// Far below the end of MPI's int, and large enough that the number of chunks costs nothing.
constexpr std::size_t kMpiChunkBytes = std::size_t{256} << 20;

class MpiAnnouncement final : public Announcement {
 public:
  MpiAnnouncement(MpiChannels& channels, const Fingerprint& own) : channels_(channels), own_(own) {}

  void start(std::span<Fingerprint> all) {
    const MPI_Comm communicator = channels_.fingerprints.get();
    const int tag = static_cast<int>(channels_.announced++ % (kMaxTag + 1));
    for (int peer = 0; peer < world_size(); ++peer) {
      auto* place = &all[static_cast<std::size_t>(peer)];
      check_mpi(
          MPI_Irecv(place, sizeof(*place), MPI_BYTE, peer, tag, communicator, requests_.add()),
          "MPI_Irecv");
    }
    for (int peer = 0; peer < world_size(); ++peer) {
      check_mpi(MPI_Isend(&own_, sizeof(own_), MPI_BYTE, peer, tag, communicator, requests_.add()),
                "MPI_Isend");
    }
  }

  bool is_done() override { return requests_.test(); }
  bool has_come(int rank) override { return requests_.is_done(static_cast<std::size_t>(rank)); }
  void check_peers() override { check_mpi_peers(channels_); }

  std::string describe_missing() override {
    std::string text;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (has_come(peer)) continue;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) + " has not arrived";
    }
    if (text.empty()) text = find_silent_mpi_peers(channels_);
    return text.empty() ? "all ranks are there, but the data of one does not come" : text;
  }

 private:
  [[nodiscard]] int world_size() const noexcept { return channels_.fingerprints.size(); }

  MpiChannels& channels_;
  Fingerprint own_;
  native::MpiRequests requests_;  // first those that receive, in the order of the ranks
};

/// One step of a collective.
class MpiExchange final : public TransportRequest {
 public:
  explicit MpiExchange(const MpiChannels& channels)
      : communicator_(channels.data.get()), rank_(channels.data.rank()) {}

  void start(const Exchange& exchange) {
    switch (exchange.pattern) {
      case Exchange::Pattern::Pairs:
        return start_pairs(exchange);
      case Exchange::Pattern::AllToAll:
        return all_to_all(exchange);
      case Exchange::Pattern::AllGather:
        return all_gather(exchange);
      case Exchange::Pattern::Gather:
        return gather(exchange);
      case Exchange::Pattern::Broadcast:
        return broadcast(exchange);
    }
  }

  bool is_done() override { return requests_.test(); }

 private:
  /// Parts of one buffer, as MPI wants them: it reads the arrays until the request is done.
  struct Parts {
    template <typename Byte>
    explicit Parts(const std::vector<std::span<Byte>>& parts) {
      for (const auto& part : parts) {
        counts.push_back(to_mpi_count(part.size()));
        offsets.push_back(static_cast<int>(part.data() - parts.front().data()));
      }
    }
    std::vector<int> counts, offsets;
  };

  void start_pairs(const Exchange& exchange) {
    for (int peer = 0; peer < static_cast<int>(exchange.receives.size()); ++peer) {
      const auto target = exchange.receives[static_cast<std::size_t>(peer)];
      if (target.empty() || !goes_through_mpi(exchange, peer)) continue;
      check_mpi(MPI_Irecv(target.data(), to_mpi_count(target.size()), MPI_BYTE, peer, kExchangeTag,
                          communicator_, requests_.add()),
                "MPI_Irecv");
    }
    for (int peer = 0; peer < static_cast<int>(exchange.sends.size()); ++peer) {
      const auto source = exchange.sends[static_cast<std::size_t>(peer)];
      if (source.empty() || !goes_through_mpi(exchange, peer)) continue;
      check_mpi(MPI_Isend(source.data(), to_mpi_count(source.size()), MPI_BYTE, peer, kExchangeTag,
                          communicator_, requests_.add()),
                "MPI_Isend");
    }
    if (exchange.is_on_host) exchange.copy_own(rank_);
  }

  // The CPU copies what a rank sends to itself, if it can.
  [[nodiscard]] bool goes_through_mpi(const Exchange& exchange, int peer) const {
    if (peer != rank_) return true;
    const auto own = static_cast<std::size_t>(peer);
    return !exchange.is_on_host && exchange.receives[own].data() != exchange.sends[own].data();
  }

  void all_to_all(const Exchange& exchange) {
    sent_.emplace(exchange.sends);
    received_.emplace(exchange.receives);
    check_mpi(
        MPI_Ialltoallv(exchange.sends.front().data(), sent_->counts.data(), sent_->offsets.data(),
                       MPI_BYTE, exchange.receives.front().data(), received_->counts.data(),
                       received_->offsets.data(), MPI_BYTE, communicator_, requests_.add()),
        "MPI_Ialltoallv");
  }

  void all_gather(const Exchange& exchange) {
    const auto own = exchange.sends.front();
    received_.emplace(exchange.receives);
    check_mpi(MPI_Iallgatherv(own.data(), to_mpi_count(own.size()), MPI_BYTE,
                              exchange.receives.front().data(), received_->counts.data(),
                              received_->offsets.data(), MPI_BYTE, communicator_, requests_.add()),
              "MPI_Iallgatherv");
  }

  void gather(const Exchange& exchange) {
    const auto own = exchange.sends[static_cast<std::size_t>(exchange.root)];
    received_.emplace(exchange.receives);
    check_mpi(MPI_Igatherv(own.data(), to_mpi_count(own.size()), MPI_BYTE,
                           exchange.receives.front().data(), received_->counts.data(),
                           received_->offsets.data(), MPI_BYTE, exchange.root, communicator_,
                           requests_.add()),
              "MPI_Igatherv");
  }

  void broadcast(const Exchange& exchange) {
    const auto bytes = exchange.receives[static_cast<std::size_t>(exchange.root)];
    check_mpi(MPI_Ibcast(bytes.data(), to_mpi_count(bytes.size()), MPI_BYTE, exchange.root,
                         communicator_, requests_.add()),
              "MPI_Ibcast");
  }

  MPI_Comm communicator_;
  int rank_;
  std::optional<Parts> sent_, received_;
  native::MpiRequests requests_;
};

/// A header, then the bytes in chunks, all under the message's tag: MPI keeps the order of what one
/// rank sends another under one tag. All parts are under way from the start, so that two messages
/// of one tag never mix.
class MpiMessage final : public TransportRequest {
 public:
  MpiMessage(const MpiChannels& channels, const MessageHeader& header, int peer, bool is_sent)
      : communicator_(channels.messages.get()),
        expected_(header),
        header_(header),
        peer_(peer),
        is_sent_(is_sent) {}

  void start(const at::Tensor& tensor) {
    start_part(&header_, sizeof(header_));
    auto* data = static_cast<std::byte*>(tensor.data_ptr());
    for (std::size_t done = 0; done < tensor.nbytes(); done += kMpiChunkBytes) {
      start_part(data + done, std::min(kMpiChunkBytes, tensor.nbytes() - done));
    }
  }

  bool is_done() override {
    if (!has_header_) {
      if (!requests_.is_done(0)) return false;
      if (!is_sent_) check_message(header_, expected_, peer_);
      has_header_ = true;
    }
    return requests_.test();
  }

 private:
  void start_part(void* data, std::size_t bytes) {
    const int count = to_mpi_count(bytes);
    if (is_sent_) {
      check_mpi(
          MPI_Isend(data, count, MPI_BYTE, peer_, expected_.tag, communicator_, requests_.add()),
          "MPI_Isend");
    } else {
      check_mpi(
          MPI_Irecv(data, count, MPI_BYTE, peer_, expected_.tag, communicator_, requests_.add()),
          "MPI_Irecv");
    }
  }

  MPI_Comm communicator_;
  MessageHeader expected_;
  MessageHeader header_;  // sent by this rank, or what came
  int peer_;
  bool is_sent_;
  bool has_header_ = false;
  native::MpiRequests requests_;
};

/// If a call of MPI fails, those before it are under way all the same: the request is never freed.
template <typename Request, typename What>
std::unique_ptr<Request> started(std::unique_ptr<Request> request, const What& what) {
  try {
    request->start(what);
  } catch (...) {
    [[maybe_unused]] auto* kept = request.release();
    throw;
  }
  return request;
}

}  // namespace

MpiTransport::MpiTransport(MpiChannels& channels)
    : Transport(channels.data.rank(), channels.data.size(), {kMpiChunkBytes, kMpiChunkBytes}),
      channels_(channels) {}

std::unique_ptr<Announcement> MpiTransport::announce(const Fingerprint& own,
                                                     std::span<Fingerprint> all) {
  return started(std::make_unique<MpiAnnouncement>(channels_, own), all);
}

std::unique_ptr<TransportRequest> MpiTransport::exchange(const Exchange& exchange) {
  return started(std::make_unique<MpiExchange>(channels_), exchange);
}

std::unique_ptr<TransportRequest> MpiTransport::send(const at::Tensor& tensor,
                                                     const MessageHeader& header, int to) {
  return started(std::make_unique<MpiMessage>(channels_, header, to, true), tensor);
}

std::unique_ptr<TransportRequest> MpiTransport::receive(const at::Tensor& tensor,
                                                        const MessageHeader& expected, int from) {
  return started(std::make_unique<MpiMessage>(channels_, expected, from, false), tensor);
}

}  // namespace lockstep
