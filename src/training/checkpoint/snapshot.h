// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/training_state.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "training/checkpoint/deferred_tensors.h"
#include "training/checkpoint/device_copies.h"

namespace lockstep::training {

/// A file that a rank is to write.
struct SnapshotFile {
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, std::string> texts;
  std::set<std::string> until_step;  ///< see `PartState`
};

/// What a deferred snapshot still needs of the program's tensors.
struct DeferredReads {
  DeferredTensors tensors;
  DeviceCopies copies;

  /// From now on the program may change them. Returns how many bytes it has copied.
  std::uint64_t release();
};

/// What a rank is to write of a state, by the name of the file.
struct Snapshot {
  /// The tensors are copies, but for those that `deferred` reads in place.
  std::map<std::string, SnapshotFile> files;
  /// Of rank 0: the indexes that say which file has which tensor, by the name of the index.
  std::map<std::string, std::string> indexes;
  /// A digest of the names, dtypes and shapes of all tensors that all ranks have, and of who writes
  /// them: the same on all ranks, or the files would not fit together.
  std::string plan;
  /// Copies from devices that are not deferred; null: there are none.
  std::shared_ptr<DeviceCopies> copies;
  std::shared_ptr<DeferredReads> deferred;  ///< null: nothing is deferred
};

/// The names of the files.
inline constexpr const char* kValuesFile = "values.safetensors";
/// Says that a part was saved, and had neither tensors nor texts.
inline constexpr const char* kNothing = "nothing";
[[nodiscard]] std::string index_file(const std::string& part);
[[nodiscard]] std::string whole_file(const std::string& part);
[[nodiscard]] std::string shard_file(const std::string& part, std::int64_t rank,
                                     std::int64_t world_size);
[[nodiscard]] std::string rank_file(const std::string& part, std::int64_t rank,
                                    std::int64_t world_size);
/// The key in the metadata of `kValuesFile` of a text of a part that has no tensors.
[[nodiscard]] std::string value_key(const std::string& part, const std::string& text);

/// Memory that is kept for the next snapshot.
class KeptMemory {
 public:
  explicit KeptMemory(bool is_pinned) : is_pinned_(is_pinned) {}

  /// Begins anew, with so many bytes. What is not written there costs no memory.
  void reset(std::int64_t bytes);
  /// The next piece of it.
  [[nodiscard]] at::Tensor take(const at::Tensor& for_tensor);

 private:
  bool is_pinned_;
  at::Tensor block_;
  std::int64_t used_ = 0;
};

/// Takes snapshots into memory that it keeps for the next one, since fresh memory costs six times
/// as long as the copy. The tensors of a snapshot are valid until the next one is taken. Tensors of
/// devices are copied into pinned memory, beside what the device does meanwhile.
///
/// Thread-safety: none.
class SnapshotMemory {
 public:
  /// `rank` of `world_size`: what is the same on all ranks is divided among them, by bytes.
  /// `is_deferred`: tensors that change only in the optimizer's step are not copied.
  /// Throws: what a part's `state` throws, and `c10::Error` for texts with names that files keep.
  [[nodiscard]] Snapshot take(const std::vector<detail::TrainingPart>& parts, std::int64_t rank,
                              std::int64_t world_size, bool is_deferred = false);

 private:
  void copy(Snapshot& snapshot, bool is_deferred);

  KeptMemory memory_{false};
  KeptMemory pinned_memory_{true};
};

}  // namespace lockstep::training
