// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <lockstep/training/training_state.h>
#include <torch/arg.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

namespace lockstep::training {

/// What a `Checkpointer` is told.
struct CheckpointerOptions {
  /// `after_step` saves after every so many steps; 0: never.
  TORCH_ARG(std::int64_t, every_steps) = 0;
  /// How many of the newest checkpoints are kept, 1 or more.
  TORCH_ARG(std::int64_t, keep_last) = 3;
  /// Those of every so many steps are kept as well; 0: none.
  TORCH_ARG(std::int64_t, keep_every_steps) = 0;
  /// So many of those with the best metric are kept as well.
  TORCH_ARG(std::int64_t, keep_best) = 0;
  /// Whether a lower metric is better, as for a loss.
  TORCH_ARG(bool, lower_is_better) = true;
  /// Whether each rank reads back what it has written before the checkpoint counts.
  TORCH_ARG(bool, verify_after_write) = true;
  /// Whether a save reads parameters and the state of the optimizer in place, while the next
  /// forward and backward run, instead of copying them. The program then calls `before_step`
  /// before each step of the optimizer, and before anything else that writes to parameters.
  TORCH_ARG(bool, deferred) = false;
  /// How long the ranks wait for each other's files. Less than the timeout of the group's calls,
  /// since a rank whose save has to wait keeps the others waiting.
  TORCH_ARG(std::chrono::milliseconds, timeout) = std::chrono::minutes(4);
};

/// A checkpoint that was loaded.
struct LOCKSTEP_API FoundCheckpoint {
  std::int64_t generation = 0;   ///< counts the saves in the folder, over all runs
  std::int64_t step = 0;         ///< as `save` was told
  std::optional<double> metric;  ///< likewise
  int world_size = 1;            ///< of the ranks that saved it
};

/// What a `Checkpointer` has done on this rank.
struct LOCKSTEP_API CheckpointerStatistics {
  std::int64_t saves = 0;     ///< that were begun
  std::int64_t failures = 0;  ///< that ended with an error
  std::uint64_t bytes = 0;    ///< this rank has written, all together
  /// How long calls have held up training, all together, and the part of it in which the save
  /// before was not over yet.
  std::chrono::duration<double> stall{0};
  std::chrono::duration<double> waited_for_save_before{0};  ///< see above
  std::chrono::duration<double> writing{0};                 ///< in the background
  /// Of deferred saves: bytes that `before_step` had to copy, since they were not written yet.
  std::uint64_t copied_before_step = 0;
};

/// Saves a `TrainingState` into a folder while training goes on, and loads the newest that is
/// whole.
///
/// A save copies what this rank writes into memory that is kept, and returns; a thread writes it. A
/// deferred one leaves parameters where they are until `before_step`.
/// What is the same on all ranks is written by them in shares. A checkpoint counts when the files
/// of all ranks are on the disk under their names and the manifest says so, with a digest of each
/// file. A process or machine that stops at any moment leaves all older checkpoints as they are.
/// Nothing is removed before newer ones count. docs/checkpointing.md has the files.
///
/// All ranks see the same folder. One job uses it at a time.
///
/// Collective: construction, and members that say so.
/// Thread-safety: one thread at a time.
/// Owns: a thread while it writes, and the lock of the folder.
class LOCKSTEP_API Checkpointer {
 public:
  /// Makes the folder where there is none, and locks it.
  /// Collective: with the same options.
  /// Throws: `c10::Error` on all ranks for a folder that another job uses or that cannot be
  /// written, and for options out of range.
  Checkpointer(std::shared_ptr<ProcessGroup> group, const std::filesystem::path& folder,
               const CheckpointerOptions& options = {});
  /// What was begun and is not written by other ranks does not count; `wait` waits for it.
  /// Blocks: until this rank has written its part, `timeout` and a minute at most.
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  /// Loads the newest checkpoint whose files are as the manifest says. Those that are not are
  /// passed over, with a warning that names the file. Nothing: there is none.
  ///
  /// With another number of ranks than saved it, what is the same on all ranks is loaded, random
  /// states are made anew, and other parts of ranks take what they can of rank 0's, or refuse it.
  ///
  /// Blocks: while it reads.
  /// Collective: all ranks have added the same parts.
  /// Throws: `c10::Error` on all ranks when the state has other parts, shapes or dtypes than this
  /// program, or when all checkpoints are damaged; then nothing was loaded. What `load_state` of a
  /// program's own object throws: then some such objects were loaded, and nothing else.
  std::optional<FoundCheckpoint> load_latest(TrainingState& state);

  /// Saves where `step` is a multiple of `every_steps`. Returns whether it did.
  /// All ranks call it after the same steps.
  /// Blocks: as `save`.
  /// Throws: as `save`.
  bool after_step(const TrainingState& state, std::int64_t step,
                  std::optional<double> metric = std::nullopt);

  /// Begins to save. `step`: all ranks have finished it. The state may change when this returns;
  /// of a deferred save, parameters and the state of the optimizer after `before_step`. Gradients
  /// are no part of a state.
  ///
  /// All ranks call it; they are not brought together.
  /// Blocks: while this rank's part is copied,
  /// and before that until the save before is written, three times `timeout` and a minute at most.
  /// Throws: what `state()` of a part throws, and `c10::Error` when the save before does not end,
  /// or was deferred and `before_step` was not called. What goes wrong later is logged, counted and
  /// thrown by `wait`; training may go on, and older checkpoints count.
  void save(const TrainingState& state, std::int64_t step,
            std::optional<double> metric = std::nullopt);

  /// The program is about to change parameters, or the state of the optimizer: what a deferred save
  /// has not read of them yet is copied. Without such a save it does nothing. Where it was
  /// forgotten, `after_step` and `save` of a later step throw; before, the save fails if one of
  /// some words of each tensor has changed. Blocks: while the rest is copied.
  void before_step();

  /// Until all that was begun counts, and what is not kept is removed. All ranks may call it, or
  /// some. Blocks: some times `timeout` at most. Throws: `c10::Error` with what went wrong since
  /// the last `wait`, on every rank.
  void wait();

  /// What this object has done on this rank.
  [[nodiscard]] CheckpointerStatistics statistics() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::training
