// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/checkpointer.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "native/posix/owning_process.h"
#include "training/checkpoint/folder.h"
#include "training/checkpoint/generation_writer.h"

namespace lockstep::training {

/// Writes one generation at a time, in a thread that lives as long as that takes.
///
/// Thread-safety: one thread at a time.
/// Owns: the thread, what it writes, and on rank 0 the lock of the folder.
class SaveThread {
 public:
  struct Outcome {
    std::int64_t generation = 0;
    std::uint64_t bytes = 0;
    std::chrono::duration<double> seconds{0};
    std::string failure;  ///< empty: this rank's part went well; on rank 0, that of all
  };

  /// `folder`: open for writing on rank 0.
  SaveThread(std::shared_ptr<const CheckpointFolder> folder, const CheckpointerOptions& options,
             std::vector<CheckpointRecord> counting);
  /// Blocks: until this rank's files are written, `timeout` and a minute at most; others are not
  /// waited for.
  ~SaveThread();
  SaveThread(const SaveThread&) = delete;
  SaveThread& operator=(const SaveThread&) = delete;

  /// Blocks: until nothing is being saved nor removed, `timeout` and a minute at most.
  /// Returns whether that is so.
  [[nodiscard]] bool has_ended() const;
  /// It was passed over when it was loaded: others are kept in its place. Comes after `has_ended`.
  void forget(std::int64_t generation);
  /// The one before has its outcome.
  /// Blocks: until the one before has removed what is not kept, `timeout` and a minute at most.
  void start(GenerationWriter::Job job);
  /// What has become of it; nothing: there was none.
  /// Throws: `c10::Error` when it does not end, which a hung filesystem alone explains. Nothing can
  /// be saved any more then.
  [[nodiscard]] std::optional<Outcome> finish();

 private:
  /// What the thread uses, so that it may outlive this object.
  struct Shared {
    std::shared_ptr<const CheckpointFolder> folder;
    CheckpointerOptions options;
    std::vector<CheckpointRecord> counting;  // of rank 0: those that are in the folder
    std::atomic<bool> is_over{false};
  };

  /// `promise` gets what has become of it; removing old checkpoints comes afterwards.
  static void write(Shared& shared, GenerationWriter::Job job, std::promise<Outcome>& promise);
  static void remove_old(Shared& shared);

  std::shared_ptr<Shared> shared_;
  std::future<Outcome> running_;
  std::future<void> ended_;  // the thread, with all that it does after the outcome
  std::optional<Outcome> not_started_;
  std::int64_t generation_ = 0;
  bool is_stuck_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep::training
