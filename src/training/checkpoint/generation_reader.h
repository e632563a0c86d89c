// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/training_state.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "training/checkpoint/folder.h"
#include "training/checkpoint/loaded_file.h"

namespace lockstep::training {

/// A generation as one rank reads it.
class GenerationReader {
 public:
  /// `rank` of `world_size`: of this run, which may be another one than that of the record.
  GenerationReader(const CheckpointFolder& folder, const CheckpointRecord& record,
                   std::int64_t rank, std::int64_t world_size)
      : folder_(folder), record_(record), rank_(rank), world_size_(world_size) {}

  /// Reads what this rank needs, and compares all files with the manifest but for other ranks' own.
  /// Throws: `c10::Error` naming the first that is damaged or gone.
  void verify(const std::vector<detail::TrainingPart>& parts);
  /// Comes after `verify`. Compares the state with the parts, and changes nothing. What it returns
  /// loads it. Throws: `c10::Error` for a state of other parts, shapes or dtypes.
  [[nodiscard]] std::vector<std::function<void()>> prepare(
      const std::vector<detail::TrainingPart>& parts) const;

 private:
  [[nodiscard]] std::set<std::string> files_of(
      const std::vector<detail::TrainingPart>& parts) const;
  /// Null: the generation has no such file.
  [[nodiscard]] const LoadedFile* find(const std::string& file) const;
  [[nodiscard]] std::string path_of(const std::string& file) const;
  /// Whose file of a part of a rank this rank reads.
  [[nodiscard]] std::int64_t source_rank() const;
  [[nodiscard]] bool is_same_world() const { return record_.world_size == world_size_; }
  [[nodiscard]] PartState read(const detail::TrainingPart& part) const;

  const CheckpointFolder& folder_;
  const CheckpointRecord& record_;
  std::int64_t rank_;
  std::int64_t world_size_;
  std::map<std::string, LoadedFile> loaded_;
};

}  // namespace lockstep::training
