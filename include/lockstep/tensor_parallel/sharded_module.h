// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::nn {

/// A parameter or buffer of which each rank has a part.
///
/// Thread-safety: a value.
struct LOCKSTEP_API ShardedTensor {
  std::string name;      ///< in the module itself: "weight"
  std::int64_t dim = 0;  ///< along which the full tensor is cut
  /// The full tensor is so many tensors side by side along `dim`, each of which is cut for itself:
  /// 3 where queries, keys and values are one matrix.
  std::int64_t parts = 1;
  /// The full size along `dim`; 0: as many times this rank's as there are ranks. Needed where the
  /// ranks cannot share it equally, and the first `full_size % ranks` of them have one more. Then
  /// there is one part.
  std::int64_t full_size = 0;
};

/// What a module implements, beside deriving from `torch::nn::Module`, whose parameters are cut:
/// files of full weights and norms of gradients ask for it. Those of this folder do. A module of a
/// program's own may.
///
/// Thread-safety: const members may be called from several threads.
class LOCKSTEP_API ShardedModule {
 public:
  virtual ~ShardedModule() = default;
  /// The module's own parameters and buffers that are cut; all others are the same on all ranks.
  [[nodiscard]] virtual std::vector<ShardedTensor> sharded_tensors() const = 0;
  /// The ranks that have the parts, in the order of the parts. Never null.
  [[nodiscard]] virtual const std::shared_ptr<ProcessGroup>& tensor_group() const = 0;
};

}  // namespace lockstep::nn
