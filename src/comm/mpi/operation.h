// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "comm/collective/fingerprint.h"
#include "comm/collective/operation.h"
#include "comm/mpi/channels.h"
#include "native/mpi/mpi_environment.h"

namespace lockstep {

// Far below the end of MPI's int, and large enough that the number of chunks costs nothing.
constexpr std::size_t kMpiChunkBytes = std::size_t{256} << 20;

/// MPI has no wait with a deadline: look again at once for a while, then with pauses, so that a
/// rank that waits for long leaves the core to others.
class MpiBackoff {
 public:
  void sleep(std::chrono::nanoseconds limit);
  void reset() noexcept { polls_ = 0; }

 private:
  int polls_ = 0;
};

/// Throws `OperationFailure` when another rank has said that it gave up, and what it sent before
/// has had time to come: between two communicators its word may overtake that.
void check_mpi_peers(MpiChannels& channels);

/// Asks all other ranks whether they are there, which those answer that wait for anything in this
/// group. Returns what the first said that gave up meanwhile, else "rank 1 has arrived, but does
/// not answer" for each that stays silent. Blocks: half a second at most.
[[nodiscard]] std::string find_silent_mpi_peers(MpiChannels& channels);

/// The frame of all collectives over MPI: every rank tells every other what it is about to do, then
/// chunk after chunk goes through the steps of the collective. Point-to-point messages carry the
/// fingerprints, so that a time-out can say who is missing.
class MpiOperation : public Operation {
 public:
  bool try_start(bool is_oldest) final;
  bool try_finish() final;
  void sleep(std::chrono::nanoseconds limit) override { backoff_.sleep(limit); }
  void check_peers() override { check_mpi_peers(channels_); }
  [[nodiscard]] std::string describe_missing() const override;

 protected:
  struct Chunk {
    std::size_t start = 0;
    std::size_t bytes = 0;
  };

  /// `bytes`: what is cut into chunks. 0: nothing follows the exchange of fingerprints, unless
  /// `set_bytes` says otherwise.
  MpiOperation(MpiChannels& channels, Fingerprint fingerprint, std::size_t bytes);

  /// Starts step `step` (0, 1, ...) of a chunk; false when the chunk has no such step, which is
  /// when it is complete.
  virtual bool start_step(int step, const Chunk& chunk, native::MpiRequests& requests) = 0;
  /// Whether what the current step does beside its requests is done. Never blocks.
  virtual bool is_step_done() { return true; }
  /// Starts what goes before the first chunk; false when there is no such step.
  virtual bool start_preparation(int /*step*/, native::MpiRequests& /*requests*/) { return false; }
  /// Largest chunk, in bytes of `bytes`.
  [[nodiscard]] virtual std::size_t chunk_bytes() const;

  void set_bytes(std::size_t bytes) noexcept { bytes_ = bytes; }
  /// Whether all have announced the same call; until then, whether one rank has announced any.
  [[nodiscard]] bool is_agreed() const noexcept { return is_agreed_; }
  [[nodiscard]] bool has_announced(int peer) const;
  [[nodiscard]] MPI_Comm data() const noexcept { return channels_.data.get(); }
  [[nodiscard]] int rank() const noexcept { return channels_.data.rank(); }
  [[nodiscard]] int world_size() const noexcept { return channels_.data.size(); }

 private:
  [[nodiscard]] bool start_next_step();

  MpiChannels& channels_;
  Fingerprint own_;
  std::vector<Fingerprint> others_;
  std::size_t bytes_;
  mutable native::MpiRequests announcements_;
  native::MpiRequests requests_;
  bool is_agreed_ = false;
  bool is_prepared_ = false;
  std::size_t done_bytes_ = 0;
  int step_ = 0;
  MpiBackoff backoff_;
};

/// MPI counts in int; chunks are far below its end.
[[nodiscard]] inline int to_mpi_count(std::size_t value) {
  return static_cast<int>(value);
}

}  // namespace lockstep
