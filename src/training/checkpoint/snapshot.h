// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/training_state.h>

#include <map>
#include <string>
#include <vector>

namespace lockstep::training {

/// A file that a rank is to write.
struct SnapshotFile {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> texts;
};

/// What a rank is to write of a state, by the name of the file. The tensors are copies.
struct Snapshot {
  std::map<std::string, SnapshotFile> files;
  /// Of rank 0: the indexes that say which file has which tensor, by the name of the index.
  std::map<std::string, std::string> indexes;
  /// A digest of the names, dtypes and shapes of all tensors that all ranks have, and of who writes
  /// them: the same on all ranks, or the files would not fit together.
  std::string plan;
};

/// The names of the files.
inline constexpr const char* kValuesFile = "values.safetensors";
/// Says that a part was saved, and had neither tensors nor texts.
inline constexpr const char* kNothing = "nothing";
[[nodiscard]] std::string index_file(const std::string& part);
[[nodiscard]] std::string whole_file(const std::string& part);
[[nodiscard]] std::string rank_file(const std::string& part, std::int64_t rank,
                                    std::int64_t world_size);
/// The key in the metadata of `kValuesFile` of a text of a part that has no tensors.
[[nodiscard]] std::string value_key(const std::string& part, const std::string& text);

/// Takes snapshots into memory that it keeps for the next one, since fresh memory costs six times
/// as long as the copy. The tensors of a snapshot are valid until the next one is taken.
///
/// Thread-safety: none.
class SnapshotMemory {
 public:
  /// `rank` of `world_size`: what is the same on all ranks is divided among them, by bytes.
  /// Throws: what a part's `state` throws, and `c10::Error` for texts with names that files keep.
  [[nodiscard]] Snapshot take(const std::vector<detail::TrainingPart>& parts, std::int64_t rank,
                              std::int64_t world_size);

 private:
  void copy(Snapshot& snapshot);

  at::Tensor memory_;
};

}  // namespace lockstep::training
