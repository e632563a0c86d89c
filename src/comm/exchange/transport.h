// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/collective/fingerprint.h"
#include "comm/collective/message.h"
#include "comm/exchange/backoff.h"

namespace lockstep {

/// What moves in one step of a collective. All ranks start the same steps in the same order, and
/// rank a sends to rank b as many bytes as b receives from a.
struct Exchange {
  /// For libraries that have a call for it. A transport may take each of them as `Pairs`.
  enum class Pattern {
    Pairs,      ///< bytes from any rank to any other, anywhere in memory
    AllToAll,   ///< between parts of one buffer and parts of another, in the order of the ranks
    AllGather,  ///< the same bytes to all, into parts of one buffer in the order of the ranks
    Gather,     ///< the same, to the root alone
    Broadcast,  ///< the same bytes from the root to all; the root receives where it sends from
  };
  Pattern pattern = Pattern::Pairs;
  int root = 0;
  bool is_on_host = true;  ///< whether the CPU may read and write the memory
  /// To and from each rank, this one included. Empty: nothing.
  std::vector<std::span<const std::byte>> sends{};
  std::vector<std::span<std::byte>> receives{};

  /// Copies what this rank sends to itself, unless it lies there already. Memory of the host only.
  void copy_own(int rank) const;
};

/// Something under way. The memory that it reads and writes stays until it is done; where that
/// never happens, the owner of the memory keeps it.
class TransportRequest {
 public:
  virtual ~TransportRequest() = default;
  /// Never blocks; may be asked again afterwards. Throws: `OperationFailure`, or the native call's
  /// error.
  [[nodiscard]] virtual bool is_done() = 0;
};

/// A collective that this rank has announced; done when all ranks have.
class Announcement : public TransportRequest {
 public:
  /// Whether `rank` has announced the collective. A transport that cannot tell says whether all
  /// ranks have.
  [[nodiscard]] virtual bool has_come(int rank) = 0;
  /// Called now and then while the collective waits, until its end. Moves on what the transport has
  /// left for later, since a rank that waits for others of its host asks nothing else. Throws:
  /// `OperationFailure` when a rank that is still needed cannot come any more.
  virtual void check_peers() = 0;
  /// Which ranks are late, for an error message. May ask them, for a short time.
  [[nodiscard]] virtual std::string describe_missing() = 0;
};

/// How bytes get from rank to rank: the class that a message-passing backend implements. The
/// collectives (`make_exchange_operation`) are the same for all transports.
/// docs/adding_a_backend.md goes through it.
///
/// Announcements are made ahead, in the order of the calls. Exchanges are made for the oldest
/// collective only, one at a time. Messages come at any time. These three must not wait for each
/// other, so each needs a channel of its own.
///
/// Nothing but `sleep` blocks. Thread-safety: one thread at a time.
class Transport {
 public:
  struct ChunkBytes {
    std::size_t step;  ///< what a step of a reduction or a broadcast handles
    std::size_t
        stream;  ///< what goes from one rank to another in a step of any other data movement
  };

  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int world_size() const noexcept { return world_size_; }
  [[nodiscard]] const ChunkBytes& chunk_bytes() const noexcept { return chunk_bytes_; }

  /// How errors call that rank: "rank 1", or "rank 1 on node2" where the transport knows the host.
  [[nodiscard]] virtual std::string name_of(int rank) const {
    return "rank " + std::to_string(rank);
  }

  /// Tells all ranks what this one is about to do. `all` receives what each rank says, this one
  /// included.
  [[nodiscard]] virtual std::unique_ptr<Announcement> announce(const Fingerprint& own,
                                                               std::span<Fingerprint> all) = 0;
  /// The memory is the caller's; the description need not stay.
  [[nodiscard]] virtual std::unique_ptr<TransportRequest> exchange(const Exchange& exchange) = 0;

  /// A message: the header, then the tensor's bytes. Messages between two ranks under one tag keep
  /// their order.
  [[nodiscard]] virtual std::unique_ptr<TransportRequest> send(const at::Tensor& tensor,
                                                               const MessageHeader& header,
                                                               int to) = 0;
  /// `is_done` throws what `check_message` throws of the header that comes.
  [[nodiscard]] virtual std::unique_ptr<TransportRequest> receive(const at::Tensor& tensor,
                                                                  const MessageHeader& expected,
                                                                  int from) = 0;

  /// Pauses between two questions whether something is done. A transport that can wait for what
  /// comes does so where the pause is not nought. Blocks: `limit` at most.
  virtual void sleep(std::chrono::nanoseconds limit, Backoff& backoff) { backoff.sleep(limit); }

  /// A rank for whose data collectives of this rank wait, where that is known.
  [[nodiscard]] virtual std::optional<int> awaited() { return std::nullopt; }
  /// Asked while a message waits. Throws: `OperationFailure` when a rank has gone.
  virtual void check_peers() = 0;
  /// Tells the other ranks that this one aborts, and why, so that their `check_peers` throw.
  virtual void announce_abort(const std::string& reason) noexcept = 0;

 protected:
  Transport(int rank, int world_size, ChunkBytes chunk_bytes)
      : rank_(rank), world_size_(world_size), chunk_bytes_(chunk_bytes) {}

 private:
  int rank_;
  int world_size_;
  ChunkBytes chunk_bytes_;
};

}  // namespace lockstep
