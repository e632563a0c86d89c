// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/gloo/channels.h"

namespace lockstep {

/// What waits for c10d's threads: they wake nobody, so this looks again at once for a while, then
/// with pauses.
class GlooBackoff {
 public:
  void sleep(std::chrono::nanoseconds limit);
  void reset() noexcept { looks_ = 0; }

 private:
  int looks_ = 0;
};

/// The frame of all collectives over gloo: ranks gather all fingerprints, then chunk after chunk
/// goes through the steps of the collective.
class GlooOperation : public Operation {
 public:
  bool try_start(bool is_oldest) final;
  bool try_finish() final;
  void sleep(std::chrono::nanoseconds limit) final;
  void check_peers() final;
  [[nodiscard]] std::string describe_missing() const final;

 protected:
  using Step = c10::intrusive_ptr<c10d::Work>;
  struct Chunk {
    std::size_t start = 0;
    std::size_t bytes = 0;
  };

  /// `bytes`: what is cut into chunks. 0: nothing follows the fingerprints.
  GlooOperation(GlooChannels& channels, Fingerprint fingerprint, std::size_t bytes);

  /// Starts step `step` (0, 1, ...) of a chunk; null when the chunk is complete.
  virtual Step start_step(int step, const Chunk& chunk) = 0;
  /// Starts what goes before the first chunk; null when there is no such step.
  virtual Step start_preparation(int /*step*/) { return nullptr; }
  [[nodiscard]] virtual std::size_t chunk_bytes() const { return std::size_t{32} << 20; }

  void set_bytes(std::size_t bytes) noexcept { bytes_ = bytes; }
  [[nodiscard]] c10d::ProcessGroupGloo& data() const noexcept { return channels_.data(); }
  [[nodiscard]] int rank() const noexcept { return channels_.rank(); }
  [[nodiscard]] int world_size() const noexcept { return channels_.size(); }

  // c10d's calls on bytes. Pieces are `splits` long, one a rank; without splits equally long.
  Step all_to_all(std::span<std::byte> output, std::span<std::byte> input,
                  std::vector<std::int64_t> output_splits = {},
                  std::vector<std::int64_t> input_splits = {}) const;
  Step all_gather(std::span<std::byte> output, std::span<std::byte> input) const;
  Step broadcast(std::span<std::byte> bytes, int root) const;

 private:
  /// Says so in the store, the first time.
  [[nodiscard]] bool waits_long();
  [[nodiscard]] bool start_next_step();

  GlooChannels& channels_;
  Fingerprint own_;
  std::vector<Fingerprint> all_;
  std::size_t bytes_;
  std::uint64_t number_ = 0;
  Step announcement_;
  Step step_work_;
  bool is_agreed_ = false;
  bool is_prepared_ = false;
  std::size_t done_bytes_ = 0;
  int step_ = 0;
  GlooBackoff backoff_;
  std::chrono::steady_clock::time_point waits_since_{};
  bool has_said_ = false;
};

/// Any collective. `channels` outlives it.
[[nodiscard]] std::unique_ptr<Operation> make_gloo_operation(GlooChannels& channels,
                                                             Collective call);
/// all_reduce, reduce and reduce_scatter: an all-to-all of shares, a sum in rank order, then an
/// all-gather, or an all-to-all in which only the root gets something.
[[nodiscard]] std::unique_ptr<Operation> make_gloo_reduction(GlooChannels& channels,
                                                             Collective call);
[[nodiscard]] std::unique_ptr<Operation> make_gloo_reduce_scatter(GlooChannels& channels,
                                                                  Collective call);
/// A meeting of all ranks; `bytes` must be the same everywhere (the size of a joint allocation).
[[nodiscard]] std::unique_ptr<Operation> make_gloo_barrier(GlooChannels& channels,
                                                           std::size_t bytes);
/// A message to, or from, one rank.
[[nodiscard]] std::unique_ptr<Operation> make_gloo_send(GlooChannels& channels, at::Tensor tensor,
                                                        int to, int tag);
[[nodiscard]] std::unique_ptr<Operation> make_gloo_receive(GlooChannels& channels,
                                                           at::Tensor tensor, int from, int tag);

}  // namespace lockstep
