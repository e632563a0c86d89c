// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "data/loader/shared_layout.h"
#include "data/samples/sample_layout.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// The memory of the slots as one worker sees it, and the worker's part in deciding how large it is
/// (`SharedLayout`).
///
/// Runs in the worker only. Thread-safety: none; each worker has one.
/// Owns: which slots this worker has reserved memory for.
class SlotMemory {
 public:
  SlotMemory(workers::TaskChannel& channel, std::size_t worker)
      : channel_(channel), worker_(worker), is_reserved_(channel.slots()) {}

  /// Whether the layout is published, and with it where the slots lie.
  [[nodiscard]] bool is_known() const;
  /// The published structure of samples.
  [[nodiscard]] SampleLayout layout() const;
  [[nodiscard]] std::size_t bytes() const { return shared().slot_bytes; }
  /// The memory of a slot, once the layout is published.
  /// Throws: `std::system_error` when it cannot be had.
  [[nodiscard]] std::byte* of(std::size_t slot);

  /// Whose turn it is to decide the layout.
  enum class Turn {
    Ours,       ///< the sample at this position of the claim's batch decides
    Over,       ///< another one has decided
    Futile,     ///< the claim has become futile meanwhile
    GivenBack,  ///< the claim is no longer ours: something before it must be done first
  };
  /// Blocks: until one of these is so.
  [[nodiscard]] Turn await_turn(const workers::Claim& claim, std::size_t position);
  /// Decides the layout for all: the structure of samples, and the bytes of a slot. False when it
  /// is not this batch's turn any more. Throws: `std::system_error` or `c10::Error` when there is
  /// no such memory.
  [[nodiscard]] bool publish_layout(const workers::Claim& claim, const std::string& structure,
                                    std::size_t slot_bytes);

 private:
  [[nodiscard]] SharedLayout& shared() const { return SharedLayout::of(channel_); }
  [[nodiscard]] bool is_first(std::size_t slot, std::size_t position) const;
  void allocate(const std::string& structure, std::size_t slot_bytes);
  void reserve(std::size_t offset, std::size_t bytes);

  workers::TaskChannel& channel_;
  std::size_t worker_;
  std::vector<bool> is_reserved_;  // by slot
};

}  // namespace lockstep::data::detail
