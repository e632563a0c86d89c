// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "native/posix/new_file.h"
#include "training/checkpoint/folder.h"
#include "training/checkpoint/snapshot.h"

namespace lockstep::training {

/// One generation as a rank writes it, in a thread of its own. The ranks tell each other by files
/// in the folder of the generation: `rank-00001.done`, a record with the digests of the rank's
/// files or with the reason of its failure.
class GenerationWriter {
 public:
  struct Job {
    std::string run;
    std::int64_t generation = 0;
    std::int64_t step = 0;
    std::int64_t rank = 0;
    std::int64_t world_size = 1;
    std::optional<double> metric;
    bool is_verified = true;
    std::chrono::milliseconds timeout{0};
    Snapshot snapshot;
  };

  /// `is_over`: set by another thread when nobody waits for the outcome any more.
  GenerationWriter(const CheckpointFolder& folder, Job job, const std::atomic<bool>& is_over)
      : folder_(folder), job_(std::move(job)), is_over_(is_over) {}

  /// Writes the files of this rank, then says that they are there. Returns the bytes; 0 also where
  /// rank 0 has given up meanwhile: the manifest says why, or will soon.
  /// Throws: what went wrong; `report` tells it to the other ranks.
  std::uint64_t write_files();
  /// For rank 0, after `write_files`: waits for the other ranks, then makes the generation count.
  /// Returns its line. Throws: the reason why it does not count, which it has said in the manifest.
  CheckpointRecord commit();
  /// Says that this rank has failed; on rank 0, that the generation does not count. Best effort:
  /// who does not learn it gives up by its deadline.
  void report(const std::string& failure) const noexcept;

 private:
  [[nodiscard]] CheckpointRecord record() const;
  [[nodiscard]] native::NewFile write(const std::string& name, const SnapshotFile& file,
                                      CheckpointRecord& done);
  [[nodiscard]] native::NewFile write(const std::string& name, const std::string& text,
                                      CheckpointRecord& done);
  /// Tells the other ranks.
  void leave(const CheckpointRecord& done) const;
  void verify(const CheckpointRecord& done) const;
  /// The records of all ranks.
  [[nodiscard]] CheckpointRecord gather() const;
  /// Those of them that have come.
  void take_records(std::map<std::int64_t, CheckpointRecord>& found) const;
  void compare(std::int64_t rank, const CheckpointRecord& record) const;
  std::uint64_t write_all_files();
  /// Best effort.
  void remove(const std::string& name) const;
  /// Whether rank 0 has given up, and has removed the folder that this rank writes into. Another
  /// rank may have made one of that name since.
  [[nodiscard]] bool has_lost_folder() const;
  [[nodiscard]] std::optional<std::uint64_t> number_of_folder() const;
  /// Whether the manifest says so already.
  [[nodiscard]] bool is_given_up() const;
  /// Where rank 0 had given up before this rank made the folder, perhaps once more, nothing of it
  /// is to stay. Of all ranks, the one that writes the last file there sees the line.
  void remove_if_given_up() const;
  [[nodiscard]] std::filesystem::path folder() const {
    return folder_.unfinished(job_.generation, job_.run);
  }

  const CheckpointFolder& folder_;
  Job job_;
  const std::atomic<bool>& is_over_;
  std::optional<std::uint64_t> folder_number_;  // its inode; nothing: nothing was written yet
};

}  // namespace lockstep::training
