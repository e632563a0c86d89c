// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "workers/channel_layout.h"
#include "workers/chunk_state.h"
#include "workers/pool_events.h"
#include "workers/task.h"

namespace lockstep::workers {

/// Who works at which chunk of the tasks in a channel's slots.
///
/// There is no lock in shared memory: a claim is one compare-and-swap of the chunk's word, which
/// names the claimer, so there is no moment at which a killed worker has taken something that
/// nobody can see. What is true stands in the chunks' words. Counters and hints only say where to
/// look: a hint that is too low costs a look, and one that a claimer would move too far is undone
/// by its version.
///
/// A view of shared memory. Thread-safety: `open` and `withdraw` by the owner; `reopen` and
/// `suspect` by the process that repairs; all else by any number of workers, processes or threads.
class ClaimTable {
 public:
  ClaimTable(const ChannelLayout& layout, const PoolEvents& events)
      : layout_(layout), events_(events) {}

  // The owner's side.
  /// Lets workers claim the chunks of a task that is written to a Free slot; the slot is Filling
  /// then, or Ready already.
  void open(std::size_t slot);
  /// No more chunks of a Filling slot can be claimed; true when no worker is at one of them.
  [[nodiscard]] bool withdraw(std::size_t slot);
  /// Takes back a task of one chunk; false when somebody has claimed or finished it.
  [[nodiscard]] bool take_back(std::size_t slot);
  /// Chunks that are finished.
  [[nodiscard]] std::uint32_t finished(std::size_t slot) const;
  /// Worker that has claimed a chunk, the first if there are several.
  [[nodiscard]] std::optional<std::size_t> claimer(std::size_t slot) const;

  // A worker's side.
  /// A chunk of the oldest task that has one for this worker; nothing where no task has.
  [[nodiscard]] std::optional<Claim> try_claim(std::size_t worker);
  /// Whether there is an open chunk for this worker before that of the claim: in an older task, or
  /// earlier in the same one.
  [[nodiscard]] bool has_older_open(const Claim& claim, std::size_t worker) const;
  /// Opens a chunk that the caller has claimed again; nothing of it has been done.
  void give_back(const Claim& claim);
  /// What becomes of a chunk that is claimed. Whoever concludes the last makes the slot Ready.
  void conclude(std::size_t slot, std::size_t chunk, ChunkState state);

  // The repairer's side.
  /// A worker may have died at a task in this slot: from now on counters are not relied on, and
  /// hints begin anew. To be called before the words of chunks are looked at.
  void suspect(std::size_t slot);
  /// Opens a chunk again that a dead worker had claimed.
  void reopen(std::size_t slot, std::size_t chunk, std::uint32_t attempts);
  /// Makes the slot Ready, if it is Filling and nothing is left to do.
  void complete_if_all_done(std::size_t slot);

 private:
  [[nodiscard]] bool has_open(std::size_t slot, std::size_t end) const;
  [[nodiscard]] std::optional<std::size_t> oldest_open(std::size_t worker) const;
  [[nodiscard]] std::optional<Claim> claim_in(std::size_t slot, std::size_t worker);
  [[nodiscard]] bool take(std::size_t slot, std::size_t chunk, std::size_t worker);
  [[nodiscard]] Claim claim_of(std::size_t slot, std::size_t chunk) const;
  [[nodiscard]] bool are_final(std::size_t slot, std::size_t chunks) const;
  [[nodiscard]] bool is_collate_due(std::size_t slot) const;
  void restart_hint(std::size_t slot);

  ChannelLayout layout_;
  PoolEvents events_;
};

}  // namespace lockstep::workers
