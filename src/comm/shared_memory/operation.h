// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

#include "comm/collective/operation.h"
#include "comm/shared_memory/transport.h"

namespace lockstep {

/// The failure that says that a rank cannot come any more, and why.
[[nodiscard]] OperationFailure lost(const SharedMemoryCounters& counters, int rank);

/// The frame of all collectives on shared memory: one or more rounds, in each of which this rank
/// offers its data, compares fingerprints when all have arrived, does its part, and where others
/// need that part waits for theirs.
class SharedMemoryOperation : public Operation {
 public:
  bool try_start(bool is_oldest) final;
  bool try_finish() final;
  bool spin() final;
  void sleep(std::chrono::nanoseconds limit) final;
  void check_peers() final;
  [[nodiscard]] std::string describe_missing() const final;

 protected:
  struct Shape {
    std::uint64_t rounds = 1;
    bool is_staged = true;  ///< passes through the slots: needs its turn
    /// Others read what this rank wrote in `act`, or this rank's input until then.
    bool is_two_phase = false;
    /// The first round decides how many there are.
    bool is_open_ended = false;
    /// All ranks' tensors must lie at the same place of registered memory, or none in it.
    bool is_place_fixed = true;
  };

  SharedMemoryOperation(SharedMemoryTransport& transport, Fingerprint fingerprint, Shape shape)
      : transport_(transport), fingerprint_(fingerprint), shape_(shape) {}

  virtual void offer(std::uint64_t /*round*/) {}     ///< before arriving
  virtual void act(std::uint64_t /*round*/) {}       ///< all have arrived
  virtual void conclude(std::uint64_t /*round*/) {}  ///< two phases: all have acted

  [[nodiscard]] SharedMemoryTransport& transport() const noexcept { return transport_; }
  [[nodiscard]] Fingerprint fingerprint_of(int rank) const {
    return transport_.counters().fingerprint(rank, round_);
  }
  void set_shape(std::uint64_t rounds, bool is_two_phase) {
    shape_.rounds = rounds;
    shape_.is_two_phase = is_two_phase;
  }
  /// The staging slot of a rank in the current round.
  [[nodiscard]] std::byte* slot(int rank) const { return transport_.slot(rank, turn_); }

 private:
  void arrive();
  [[nodiscard]] bool is_late(int rank) const;

  SharedMemoryTransport& transport_;
  Fingerprint fingerprint_;
  Shape shape_;
  std::uint64_t done_rounds_ = 0;
  std::uint64_t arrived_rounds_ = 0;
  std::uint64_t round_ = 0;  // the group's number of the round under way
  std::uint64_t turn_ = 0;
  std::uint64_t digest_ = 0;
  bool has_acted_ = false;
};

}  // namespace lockstep
