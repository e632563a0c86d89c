// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/training/training_state.h>
#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/crash_disk.h"
#include "support/recording_file_system.h"

namespace lockstep::testing {

using Moment = RecordingFileSystem::Moment;

/// In memory where the machine has such a folder. Removed at the end.
class MemoryFolder {
 public:
  MemoryFolder();
  ~MemoryFolder();
  MemoryFolder(const MemoryFolder&) = delete;
  MemoryFolder& operator=(const MemoryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Removes what is in it, and makes these instead.
  void set(const DiskTree& tree) const;
  [[nodiscard]] DiskTree tree() const;

 private:
  std::filesystem::path path_;
};

/// What a run saves; its values follow from the step.
struct SmallRun {
  SmallRun();
  void go_to(std::int64_t new_step);
  /// All of it is of this step, bit for bit.
  [[nodiscard]] bool is_at(std::int64_t wanted) const;

  torch::Tensor weights, moments, mean;
  std::int64_t step = 0;
  std::string note;
  training::TrainingState state;
};

/// The step at which tests save a generation.
constexpr std::int64_t step_of(std::int64_t generation) {
  return 10 * generation;
}

/// The files of each generation, by their paths in its folder.
using Generations = std::map<std::int64_t, DiskTree>;

/// What is in a folder of a tree.
[[nodiscard]] DiskTree part_of(const DiskTree& tree, const std::string& folder);
[[nodiscard]] std::string generation_name(std::int64_t generation);

/// Opens what is left of a folder of checkpoints as the next job does.
class CheckpointCheck {
 public:
  /// What the lines of the manifest promise in every state.
  enum class Lines {
    Whole,     ///< those that must be there name a generation; so do those that are there
    MayLack,   ///< a line that is there names a generation that is whole
    MayDiffer  ///< nothing: the disk keeps no promise
  };

  /// `folder`: of the checkpoints, below the root of each tree.
  CheckpointCheck(std::string folder, const Generations& generations, Lines lines);
  /// One of the generations from `oldest` to `newest` is loaded, bit for bit, and then the next
  /// save works.
  void operator()(const DiskTree& tree, std::int64_t oldest, std::int64_t newest) const;

 private:
  void check_readers(std::int64_t oldest) const;
  [[nodiscard]] std::int64_t newest_line() const;

  std::string folder_;
  const Generations& generations_;
  Lines lines_;
  MemoryFolder root_;
  std::shared_ptr<ProcessGroup> group_;
};

/// How many states a test is to check, if it has so many; LOCKSTEP_CRASH_STATES says how many all
/// tests together are to check.
[[nodiscard]] std::size_t wanted_states();

using StateCheck =
    std::function<void(const DiskTree& tree, std::int64_t oldest, std::int64_t newest)>;

/// Cuts the power at every moment, and checks what may be on the disk then: about as many different
/// states as are wanted, or all there are.
void cut_power_at_each(const std::vector<Moment>& moments, std::size_t wanted,
                       const StateCheck& check);

/// The states that were checked so far.
[[nodiscard]] std::size_t checked_states();

}  // namespace lockstep::testing
