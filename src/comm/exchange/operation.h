// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/collective/fingerprint.h"
#include "comm/collective/operation.h"
#include "comm/exchange/backoff.h"
#include "comm/exchange/transport.h"

namespace lockstep {

/// The frame of all collectives over a transport: every rank announces what it is about to do, the
/// fingerprints are compared, then chunk after chunk goes through the steps of the collective.
class ExchangeOperation : public Operation {
 public:
  bool try_start(bool is_oldest) final;
  bool try_finish() final;
  void sleep(std::chrono::nanoseconds limit) override { transport_.sleep(limit, backoff_); }
  void check_peers() override;
  [[nodiscard]] std::string describe_missing() const override;

 protected:
  struct Chunk {
    std::size_t start = 0;
    std::size_t bytes = 0;
  };

  /// `bytes`: what is cut into chunks of `chunk_bytes`. 0: nothing follows the fingerprints, unless
  /// `set_bytes` says otherwise.
  ExchangeOperation(Transport& transport, const Fingerprint& fingerprint, std::size_t bytes,
                    std::size_t chunk_bytes);

  /// Starts step `step` (0, 1, ...) of a chunk; false when the chunk has no such step, which is
  /// when it is complete.
  virtual bool start_step(int step, const Chunk& chunk) = 0;
  /// Starts what goes before the first chunk; false when there is no such step.
  virtual bool start_preparation(int /*step*/) { return false; }
  /// Never blocks.
  virtual bool is_step_done() { return !request_ || request_->is_done(); }

  /// The current step's part of the transport.
  void exchange(const Exchange& exchange) { request_ = transport_.exchange(exchange); }

  void set_bytes(std::size_t bytes) noexcept { bytes_ = bytes; }
  [[nodiscard]] std::size_t chunk_bytes() const noexcept { return chunk_bytes_; }
  /// The chunk's number, counted from 0.
  [[nodiscard]] std::size_t round_of(const Chunk& chunk) const noexcept {
    return chunk.start / chunk_bytes_;
  }
  /// Whether all ranks have announced the same call.
  [[nodiscard]] bool is_agreed() const noexcept { return is_agreed_; }
  /// Whether `peer` has announced a call; for the time until all have.
  [[nodiscard]] bool has_announced(int peer) const { return announcement_->has_come(peer); }
  [[nodiscard]] int rank() const noexcept { return transport_.rank(); }
  [[nodiscard]] int world_size() const noexcept { return transport_.world_size(); }

 private:
  [[nodiscard]] bool start_next_step();

  Transport& transport_;
  Fingerprint own_;
  std::vector<Fingerprint> all_;
  std::size_t bytes_;
  std::size_t chunk_bytes_;
  std::unique_ptr<Announcement> announcement_;
  std::unique_ptr<TransportRequest> request_;  // the latest; what it keeps serves the next
  bool is_agreed_ = false;
  bool is_prepared_ = false;
  std::size_t done_bytes_ = 0;
  int step_ = 0;
  Backoff backoff_;
};

}  // namespace lockstep
