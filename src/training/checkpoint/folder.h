// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "native/posix/close_on_fork.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// The folder of a job's checkpoints:
///
///     MANIFEST              a line for each generation that counts, or that has failed
///     LOCK                  held by rank 0 of the job that uses the folder
///     gen-000012/           the files of a generation; RECORD among them is its line
///     gen-000013.RUN.tmp/   one that is being written by the run of that random name
///
/// Thread-safety: constant after `open_for_writing`, but for the disk; one thread at a time writes.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path path,
                            native::FileSystem& files = native::FileSystem::of_machine())
      : files_(files), path_(std::move(path)) {}

  [[nodiscard]] native::FileSystem& files() const noexcept { return files_; }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path generation(std::int64_t number) const;
  [[nodiscard]] std::filesystem::path unfinished(std::int64_t number, const std::string& run) const;
  [[nodiscard]] std::filesystem::path manifest() const { return path_ / "MANIFEST"; }

  /// Makes the folder and locks it, and removes what a run that was interrupted has left. Gives a
  /// generation that is whole but for its line the line, and shortens the manifest to what there
  /// is. For rank 0.
  /// Throws: `c10::Error` when another job has it, or it cannot be written.
  void open_for_writing();

  /// The newest generation that there is in any form; 0: none.
  [[nodiscard]] std::int64_t newest() const;
  /// The whole lines of the manifest from byte `from` on, which moves behind the last of them. None
  /// where there is no manifest.
  /// Throws: `c10::Error` when it cannot be read.
  [[nodiscard]] std::vector<CheckpointRecord> records(std::uint64_t& from) const;
  [[nodiscard]] std::vector<CheckpointRecord> records() const;
  /// Whether one of the last lines says that a generation of a run has failed.
  [[nodiscard]] bool has_failed(std::int64_t number, const std::string& run) const;
  /// Those that count and are there, in the order of their generations, and the newest line.
  [[nodiscard]] std::vector<CheckpointRecord> candidates() const;

  /// Makes a folder for the files of a generation.
  /// Throws: `c10::Error`.
  void make_unfinished(std::int64_t number, const std::string& run) const;
  /// Appends a line, and waits until it is on the disk.
  /// Throws: `std::system_error`.
  void append(const CheckpointRecord& record) const;
  /// Gives the files of a generation, which are all on the disk, their place. It counts with its
  /// line in the manifest. Throws: `std::system_error`.
  void give_place(const CheckpointRecord& record) const;
  /// Best effort: what cannot be removed stays, and is not looked at again.
  void remove(const std::filesystem::path& folder) const noexcept;

 private:
  void lock();
  void remove_leftovers() const;
  void add_missing_lines() const;
  [[nodiscard]] std::optional<CheckpointRecord> record_in(
      const std::filesystem::path& folder) const;
  void shorten_manifest() const;

  native::FileSystem& files_;
  std::filesystem::path path_;
  native::FileDescriptor lock_;
  std::optional<native::CloseOnFork> lock_ends_here_;  // a child must not keep the lock
};

}  // namespace lockstep::training
